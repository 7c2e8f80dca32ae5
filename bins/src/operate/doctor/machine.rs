//! The machine that we run on.

use std::env;
use std::path::Path;

use super::finding::{CONFIGURATION, Finding, mebibytes};

const CHECK: &str = "tmpdir";

/// Less than this is told, in bytes: a file from standard input is spooled there.
const FREE_MIN: u64 = 1 << 30;

/// The folder into which standard input is spooled.
pub(super) fn temporary_folder() -> Finding {
    let folder = env::temp_dir();
    match rustix::fs::statvfs(&folder) {
        Ok(_) if !folder.is_dir() => unusable(&folder, "it is no folder"),
        Ok(disk) => room(&folder, disk.f_bavail.saturating_mul(disk.f_frsize)),
        Err(error) => unusable(&folder, &error.to_string()),
    }
}

fn unusable(folder: &Path, why: &str) -> Finding {
    Finding::problem(
        CHECK,
        CONFIGURATION,
        format!("{} cannot be used: {why}", folder.display()),
        "set TMPDIR to a folder with room",
    )
}

fn room(folder: &Path, free: u64) -> Finding {
    let found = format!("{} free in {}", mebibytes(free as i64), folder.display());
    if free < FREE_MIN {
        return Finding::warning(CHECK, found, "set TMPDIR to a folder with more room");
    }
    Finding::ok(CHECK, found)
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    #[test]
    fn little_room_is_told() {
        let folder = Path::new("/tmp");
        assert!(matches!(room(folder, FREE_MIN - 1).state, State::Warning { .. }));
        assert!(matches!(room(folder, FREE_MIN).state, State::Ok));
    }
}
