//! Checks of this machine.

use std::env;
use std::path::Path;

use super::finding::{CONFIGURATION, Finding, mebibytes};

const CHECK: &str = "tmpdir";

/// Free space below which the check warns, in bytes: standard input is spooled there.
const FREE_MIN: u64 = 1 << 30;

/// Checks the folder into which standard input is spooled.
pub(super) fn temporary_folder() -> Finding {
    let folder = env::temp_dir();
    match rustix::fs::statvfs(&folder) {
        Ok(_) if !folder.is_dir() => unusable(&folder, "it is not a folder"),
        Ok(disk) => space(&folder, disk.f_bavail.saturating_mul(disk.f_frsize)),
        Err(error) => unusable(&folder, &error.to_string()),
    }
}

fn unusable(folder: &Path, why: &str) -> Finding {
    Finding::problem(
        CHECK,
        CONFIGURATION,
        format!("could not use {}: {why}", folder.display()),
        "set TMPDIR to a folder with free space",
    )
}

fn space(folder: &Path, free: u64) -> Finding {
    let found = format!("{} free in {}", mebibytes(free as i64), folder.display());
    if free < FREE_MIN {
        return Finding::warning(CHECK, found, "set TMPDIR to a folder with more free space");
    }
    Finding::ok(CHECK, found)
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    #[test]
    fn little_free_space_is_a_warning() {
        let folder = Path::new("/tmp");
        assert!(matches!(space(folder, FREE_MIN - 1).state, State::Warning { .. }));
        assert!(matches!(space(folder, FREE_MIN).state, State::Ok));
    }
}
