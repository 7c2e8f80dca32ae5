//! A folder and processes that do not outlive this process, however it ends.
//!
//! A guard, a shell that waits on a pipe from this process, cleans up once the pipe closes.
//! The kernel closes it even if the process is killed, which no signal handler or
//! destructor can guarantee.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Failure;
use crate::servers::owner;

/// Reads our pipe to its end, then ends the processes named in `pids` (each file
/// is named by the process and holds the signal's name), removes our containers
/// and the folder. `$1` is the folder, `$2` the containers' label.
const GUARD: &str = r#"
cat >/dev/null
cd /
for file in "$1"/pids/*; do
  [ -e "$file" ] || continue
  kill -s "$(cat "$file")" "${file##*/}"
  kill -s CONT "${file##*/}"
done
for file in "$1"/pids/*; do
  [ -e "$file" ] || continue
  tries=0
  while kill -0 "${file##*/}" && [ $tries -lt 100 ]; do sleep 0.05; tries=$((tries + 1)); done
  kill -s KILL "${file##*/}"
done
if [ -e "$1"/containers ] && command -v docker; then
  docker ps --all --quiet --filter "label=$2" | xargs -r docker rm --force --volumes
fi
rm -rf "$1"
"#;

/// A temporary folder, and a guard that removes it when this process ends.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    guard: Child,
    pipe: Option<ChildStdin>,
    folders: AtomicU32,
}

/// Signal with which the guard ends a process that is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By SIGKILL.
    Kill,
    /// By SIGQUIT, at which PostgreSQL ends its own processes too.
    Quit,
}

impl Scratch {
    /// A new folder in the system's temporary one, open to other users, since a server may
    /// have to run as one.
    ///
    /// # Errors
    /// When folder or guard cannot be made.
    pub fn new() -> Result<Self, Failure> {
        let path = tempfile::Builder::new().prefix("lambda-lab-").tempdir()?.keep();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        fs::create_dir(path.join("pids"))?;
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "lambda-lab-guard"])
            .arg(&path)
            .arg(owner::owner_label())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A signal from the terminal must not reach it.
            .process_group(0)
            .spawn()?;
        let pipe = guard.stdin.take();
        Ok(Self { path, guard, pipe, folders: AtomicU32::new(0) })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A new empty folder in it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn folder(&self, name: &str) -> io::Result<PathBuf> {
        let number = self.folders.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("{name}-{number}"));
        fs::create_dir(&path)?;
        Ok(path)
    }

    /// Makes the guard end this process if it outlives us.
    ///
    /// # Errors
    /// If the guard cannot be reached.
    pub fn watch(&self, pid: u32, ending: Ending) -> io::Result<()> {
        let signal = match ending {
            Ending::Kill => "KILL",
            Ending::Quit => "QUIT",
        };
        fs::write(self.path.join("pids").join(pid.to_string()), signal)
    }

    /// Makes the guard forget a process that has ended: its number may be used
    /// again.
    pub fn forget(&self, pid: u32) {
        let _ = fs::remove_file(self.path.join("pids").join(pid.to_string()));
    }

    /// Makes the guard remove our containers.
    ///
    /// # Errors
    /// If the guard cannot be reached.
    pub fn watch_containers(&self) -> io::Result<()> {
        fs::write(self.path.join("containers"), "")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.guard.wait();
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    #[test]
    fn folder_and_processes_end_with_their_owner() {
        let scratch = Scratch::new().unwrap();
        let mut sleeper = Command::new("sleep").arg("600").spawn().unwrap();
        scratch.watch(sleeper.id(), Ending::Kill).unwrap();
        let folder = scratch.folder("anything").unwrap();
        fs::write(folder.join("file"), "content").unwrap();
        let path = scratch.path().to_owned();
        // The guard waits until the process is gone, so its parent must reap it.
        let ended = std::thread::spawn(move || sleeper.wait().unwrap());
        drop(scratch);
        assert!(!ended.join().unwrap().success());
        assert!(!path.exists());
    }

    #[test]
    fn a_forgotten_process_is_left_alone() {
        let scratch = Scratch::new().unwrap();
        let mut sleeper = Command::new("sleep").arg("600").spawn().unwrap();
        scratch.watch(sleeper.id(), Ending::Kill).unwrap();
        scratch.forget(sleeper.id());
        drop(scratch);
        assert!(sleeper.try_wait().unwrap().is_none());
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
    }
}
