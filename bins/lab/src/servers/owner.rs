//! Whose a container or a database is: it is named by host and process, so that what a killed
//! process left behind is told from what is in use.

use std::fs;
use std::path::Path;

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

/// Whether the process that an owner's label names is still there. Other hosts'
/// processes are taken to be.
pub(super) fn alive(owner: &str) -> bool {
    match owner.strip_prefix(&format!("{}.", host())) {
        Some(pid) => Path::new("/proc").join(pid).exists(),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_alive_as_long_as_its_process() {
        assert!(alive(&owner()));
        assert!(!alive(&format!("{}.4194999", host())));
        assert!(alive("another-host.1"));
    }
}
