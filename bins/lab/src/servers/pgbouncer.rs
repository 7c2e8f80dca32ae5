//! PgBouncer in front of a database, started from its program.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use lambda_core::postgres::connection::connect;

use crate::Failure;
use crate::servers::local_postgres::{Unprivileged, free_port};
use crate::servers::login::Login;
use crate::servers::scratch::{Ending, Scratch};

/// A pooler that is stopped when this is dropped.
#[derive(Debug)]
pub struct PgBouncer {
    process: Child,
    login: Login,
    scratch: Arc<Scratch>,
}

/// Finds the program. Packages install it in folders that are not on a user's PATH.
pub fn find() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join("pgbouncer")).find(|program| program.is_file())
}

impl PgBouncer {
    /// Starts a pooler in front of the database of `behind`, with `settings` (`name=value`).
    pub(crate) async fn start(
        scratch: &Arc<Scratch>,
        behind: &Login,
        settings: &[&str],
    ) -> Result<Self, Failure> {
        let program = find().ok_or("pgbouncer is not installed")?;
        let user = Unprivileged::find()?;
        let folder = scratch.folder("pgbouncer")?;
        let port = free_port()?;
        let Login { host, port: server_port, database, user: role, password } = behind;
        // Accepts every login, as the one role.
        let text = format!(
            "[databases]\n\
             {database} = host={host} port={server_port} dbname={database} user={role} password={password}\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n{}\n",
            settings.join("\n")
        );
        let file = folder.join("pgbouncer.ini");
        fs::write(&file, text)?;
        user.give(&file)?;
        let log = fs::File::create(folder.join("log"))?;
        let mut command = user.command(&program);
        command.arg(&file).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = command.spawn()?;
        scratch.watch(process.id(), Ending::Kill)?;
        let login = Login { host: "127.0.0.1".into(), port, ..behind.clone() };
        let mut started = Self { process, login, scratch: Arc::clone(scratch) };
        for _ in 0..200 {
            if connect(&started.login.config(), "lab").await.is_ok() {
                return Ok(started);
            }
            if started.process.try_wait()?.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let said = fs::read_to_string(folder.join("log")).unwrap_or_default();
        Err(format!("PgBouncer did not get ready:\n{said}").into())
    }

    /// Login to the database through it.
    pub fn login(&self) -> &Login {
        &self.login
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.scratch.forget(self.process.id());
    }
}
