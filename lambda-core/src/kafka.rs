//! The source on Kafka.
