//! PostgreSQL started from its programs, on a loopback port, with a random
//! password, durable as in production.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use lambda_core::postgres::connection::connect;
use rustix::process::{Pid, Signal, kill_process};
use uuid::Uuid;

use crate::Failure;
use crate::servers::login::Login;
use crate::servers::scratch::{Ending, Scratch};
use crate::servers::tools;

/// Settings of every server; later ones take precedence.
const SETTINGS: [&str; 4] =
    ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200", "fsync=on"];

/// A server that is stopped when this is dropped.
#[derive(Debug)]
pub struct LocalPostgres {
    server: Child,
    settings: Vec<String>,
    folder: PathBuf,
    user: Unprivileged,
    scratch: Arc<Scratch>,
    admin: Login,
    tools: PathBuf,
}

impl LocalPostgres {
    /// Creates a database cluster in the scratch folder and starts its server, with
    /// `settings` (`name=value`) in addition to the usual ones and `files` (name and content)
    /// in its data folder, replacing those of the same name.
    ///
    /// # Errors
    /// When programs are missing, or one of them fails: with its output.
    pub async fn start(
        scratch: &Arc<Scratch>,
        settings: &[&str],
        files: &[(&str, &str)],
    ) -> Result<Self, Failure> {
        let tools = tools::find().await?;
        let user = Unprivileged::find()?;
        let folder = scratch.folder("postgres")?;
        let password = Uuid::new_v4().simple().to_string();
        init(&tools, &folder, &user, &password)?;
        for (name, content) in files {
            let path = folder.join("data").join(name);
            fs::write(&path, content)?;
            // The server refuses a key that others can read.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            user.give(&path)?;
        }
        let settings: Vec<String> =
            SETTINGS.iter().chain(settings).map(|setting| (*setting).to_owned()).collect();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let port = free_port()?;
            let admin = Login {
                host: "127.0.0.1".into(),
                port,
                database: "postgres".into(),
                user: "postgres".into(),
                password: password.clone(),
            };
            let server = serve(scratch, &tools, &folder, &user, &settings, port)?;
            let mut started = Self {
                server,
                settings: settings.clone(),
                folder: folder.clone(),
                user,
                scratch: Arc::clone(scratch),
                admin,
                tools: tools.clone(),
            };
            match started.ready().await {
                Ok(()) => return Ok(started),
                // Another process may take the port before the server does.
                Err(_) if attempts < 3 => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Kills all its processes with SIGKILL, like a crash of the machine, except that what
    /// the server wrote stays in the kernel.
    ///
    /// # Errors
    /// If the system does not report their end.
    pub fn kill(&mut self) -> Result<(), Failure> {
        let children = self.children()?;
        self.server.kill()?;
        self.server.wait()?;
        self.scratch.forget(self.server.id());
        for (pid, _) in &children {
            // Some have noticed the end of their parent and ended by themselves.
            let _ = signal(*pid, Signal::KILL);
        }
        while children.iter().any(|(pid, _)| Path::new("/proc").join(pid.to_string()).exists()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Starts it again after [`LocalPostgres::kill`], on the same port and data.
    ///
    /// # Errors
    /// If it does not get ready: with its output.
    pub async fn start_again(&mut self) -> Result<(), Failure> {
        let port = self.admin.port;
        self.server =
            serve(&self.scratch, &self.tools, &self.folder, &self.user, &self.settings, port)?;
        self.ready().await
    }

    /// Its processes except the first, with their titles (`postgres: walwriter `).
    ///
    /// # Errors
    /// If the system does not report them.
    pub fn children(&self) -> Result<Vec<(u32, String)>, Failure> {
        let mut children = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // A process may end between two reads.
            let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
            let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
            if parent.map(str::trim) == Some(&self.server.id().to_string()) {
                let title = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                children.push((pid, String::from_utf8_lossy(&title).replace('\0', " ")));
            }
        }
        Ok(children)
    }

    /// Sends a signal to the process whose title contains `title`, the walwriter
    /// for example.
    ///
    /// # Errors
    /// When there is not exactly one.
    pub fn signal(&self, title: &str, what: Signal) -> Result<(), Failure> {
        let mut found = self.children()?;
        found.retain(|(_, of)| of.contains(title));
        match &found[..] {
            [(pid, _)] => signal(*pid, what),
            _ => Err(format!("{} processes are called {title}", found.len()).into()),
        }
    }

    async fn ready(&mut self) -> Result<(), Failure> {
        for _ in 0..600 {
            match connect(&self.admin.config(), "lab").await {
                Ok(_) => return Ok(()),
                Err(error) if self.server.try_wait()?.is_some() => {
                    let said = fs::read_to_string(log(&self.folder)).unwrap_or_default();
                    return Err(format!("PostgreSQL ended at its start: {error}\n{said}").into());
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        Err("PostgreSQL did not get ready within 30 s".into())
    }

    /// Its log so far.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub fn log(&self) -> Result<String, Failure> {
        Ok(fs::read_to_string(log(&self.folder))?)
    }

    /// Login to its maintenance database, as its superuser.
    pub fn admin(&self) -> &Login {
        &self.admin
    }

    /// Folder of its programs.
    pub fn tools(&self) -> &Path {
        &self.tools
    }
}

impl Drop for LocalPostgres {
    fn drop(&mut self) {
        // A killed server has already ended.
        if matches!(self.server.try_wait(), Ok(Some(_))) {
            return;
        }
        let _ = signal(self.server.id(), Signal::QUIT);
        let _ = self.server.wait();
        self.scratch.forget(self.server.id());
    }
}

/// A free port.
pub(super) fn free_port() -> Result<u16, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn signal(pid: u32, signal: Signal) -> Result<(), Failure> {
    let pid = Pid::from_raw(pid.cast_signed()).ok_or("no process has the number 0")?;
    Ok(kill_process(pid, signal)?)
}

fn log(folder: &Path) -> PathBuf {
    folder.join("log")
}

fn serve(
    scratch: &Scratch,
    tools: &Path,
    folder: &Path,
    user: &Unprivileged,
    settings: &[String],
    port: u16,
) -> Result<Child, Failure> {
    let mut command = user.command(&tools.join("postgres"));
    command.arg("-D").arg(folder.join("data")).arg("-p").arg(port.to_string());
    for setting in settings {
        command.args(["-c", setting]);
    }
    let output = fs::OpenOptions::new().create(true).append(true).open(log(folder))?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    // A signal from the terminal is for us: the guard ends the server.
    let server = command.process_group(0).spawn()?;
    scratch.watch(server.id(), Ending::Quit)?;
    Ok(server)
}

fn init(tools: &Path, folder: &Path, user: &Unprivileged, password: &str) -> Result<(), Failure> {
    let password_file = folder.join("password");
    fs::write(&password_file, password)?;
    user.give(&password_file)?;
    user.give(folder)?;
    let output = user
        .command(&tools.join("initdb"))
        .arg("--pgdata")
        .arg(folder.join("data"))
        .arg("--pwfile")
        .arg(&password_file)
        .args(["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale"])
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(format!("initdb failed: {said}").into());
    }
    Ok(())
}

/// The user for PostgreSQL's programs: another one if we are root, which they
/// refuse.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unprivileged {
    ids: Option<(u32, u32)>,
}

impl Unprivileged {
    pub(super) fn find() -> Result<Self, Failure> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self { ids: None });
        }
        let users = fs::read_to_string("/etc/passwd")?;
        let ids = ids_of(&users, "postgres").or_else(|| ids_of(&users, "nobody"));
        match ids {
            Some(ids) => Ok(Self { ids: Some(ids) }),
            None => Err("PostgreSQL refuses root, and there is no user postgres or nobody".into()),
        }
    }

    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C").env("TZ", "UTC").current_dir("/");
        if let Some((user, group)) = self.ids {
            command.uid(user).gid(group);
        }
        command
    }

    pub(super) fn give(&self, path: &Path) -> Result<(), Failure> {
        if let Some((user, group)) = self.ids {
            chown(path, Some(user), Some(group))?;
        }
        Ok(())
    }
}

/// User and group number of `name` in the text of a passwd file.
fn ids_of(users: &str, name: &str) -> Option<(u32, u32)> {
    let mut fields = users
        .lines()
        .map(|line| line.split(':'))
        .find_map(|mut fields| (fields.next() == Some(name)).then_some(fields))?
        .skip(1);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_by_name() {
        let users = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65533::/:/bin/false\n";
        assert_eq!(ids_of(users, "nobody"), Some((65534, 65533)));
        assert_eq!(ids_of(users, "postgres"), None);
    }
}
