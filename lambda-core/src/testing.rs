//! Conformance suites and the reference model.
