//! Owners of containers and databases, named by host and process, so that what a killed
//! process left behind can be distinguished from what is in use.

use std::fs;

/// The label that names a container's owner: host and process.
pub const OWNER: &str = "lambda-lab.owner";

/// This process as the owner of a container.
pub fn owner() -> String {
    format!("{}.{}", host(), std::process::id())
}

/// The label of this process's containers, as a filter.
pub fn owner_label() -> String {
    format!("{OWNER}={}", owner())
}

/// This machine's name: an engine may be shared with others.
pub fn host() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "localhost".into(), |name| name.trim().to_owned())
}
