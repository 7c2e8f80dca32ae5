//! lambda-stream
