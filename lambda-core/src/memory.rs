//! The sink in memory.
