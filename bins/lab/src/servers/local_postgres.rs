//! PostgreSQL started from its programs, on a loopback port, with a random
//! password, durable as in production.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use lambda_core::postgres::connect::connect;
use uuid::Uuid;

use crate::Failure;
use crate::servers::login::Login;
use crate::servers::scratch::{Ending, Scratch};
use crate::servers::tools;

/// A running server that ends when this is dropped.
#[derive(Debug)]
pub struct LocalPostgres {
    server: Child,
    scratch: Arc<Scratch>,
    admin: Login,
    tools: PathBuf,
}

impl LocalPostgres {
    /// Makes a database cluster in the scratch folder and starts its server.
    ///
    /// # Errors
    /// When programs are missing, or one of them fails: with what it said.
    pub async fn start(scratch: &Arc<Scratch>) -> Result<Self, Failure> {
        let tools = tools::find().await?;
        let user = Unprivileged::find()?;
        let folder = scratch.folder("postgres")?;
        let password = Uuid::new_v4().simple().to_string();
        init(&tools, &folder, &user, &password)?;
        let mut attempts = 0;
        loop {
            attempts += 1;
            // Somebody may take the port between our look and the server's.
            match Self::serve(scratch, &tools, &folder, &user, &password).await {
                Err(_) if attempts < 3 => {}
                other => return other,
            }
        }
    }

    async fn serve(
        scratch: &Arc<Scratch>,
        tools: &Path,
        folder: &Path,
        user: &Unprivileged,
        password: &str,
    ) -> Result<Self, Failure> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let log = folder.join("log");
        let mut command = user.command(&tools.join("postgres"));
        command.arg("-D").arg(folder.join("data"));
        for setting in [
            "listen_addresses=127.0.0.1",
            &format!("port={port}"),
            "unix_socket_directories=",
            "max_connections=200",
            "fsync=on",
        ] {
            command.args(["-c", setting]);
        }
        let output = fs::File::create(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // A signal from the terminal is for us: the guard ends the server.
        let server = command.process_group(0).spawn()?;
        scratch.watch(server.id(), Ending::Quit)?;
        let admin = Login {
            host: "127.0.0.1".into(),
            port,
            database: "postgres".into(),
            user: "postgres".into(),
            password: password.to_owned(),
        };
        let scratch = Arc::clone(scratch);
        let mut started = Self { server, scratch, admin, tools: tools.to_owned() };
        started.ready(&log).await?;
        Ok(started)
    }

    async fn ready(&mut self, log: &Path) -> Result<(), Failure> {
        for _ in 0..600 {
            match connect(&self.admin.config(), "lab").await {
                Ok(_) => return Ok(()),
                Err(error) if self.server.try_wait()?.is_some() => {
                    let said = fs::read_to_string(log).unwrap_or_default();
                    return Err(format!("PostgreSQL ended at its start: {error}\n{said}").into());
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        Err("PostgreSQL did not get ready within 30 s".into())
    }

    /// Its maintenance database, as its superuser.
    pub fn admin(&self) -> &Login {
        &self.admin
    }

    /// The folder its programs are in.
    pub fn tools(&self) -> &Path {
        &self.tools
    }
}

impl Drop for LocalPostgres {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.server.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        }
        let _ = self.server.wait();
        self.scratch.forget(self.server.id());
    }
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

/// The user that PostgreSQL's programs run as: another one when we are root,
/// which they refuse.
struct Unprivileged {
    ids: Option<(u32, u32)>,
}

impl Unprivileged {
    fn find() -> Result<Self, Failure> {
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

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C").env("TZ", "UTC").current_dir("/");
        if let Some((user, group)) = self.ids {
            command.uid(user).gid(group);
        }
        command
    }

    fn give(&self, path: &Path) -> Result<(), Failure> {
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
