//! bins/lab
