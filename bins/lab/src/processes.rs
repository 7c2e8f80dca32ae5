//! Programs under test: started with a complete environment, watched, signalled, and never
//! left running.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::Failure;
use crate::servers::scratch::{Ending, Scratch};

/// Variables that a program under test inherits. Any other would let the shell that runs
/// the tests influence the result.
const INHERITED: [&str; 6] =
    ["PATH", "HOME", "TMPDIR", "RUST_BACKTRACE", "RUST_LOG", "LLVM_PROFILE_FILE"];

/// A program to be started, with its arguments and environment.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
    input: Option<PathBuf>,
    scratch: Arc<Scratch>,
}

impl Program {
    /// The program at `path`; `scratch` makes sure that it ends.
    pub fn new(path: impl Into<PathBuf>, scratch: &Arc<Scratch>) -> Self {
        let inherited =
            INHERITED.iter().filter_map(|name| Some((name.into(), std::env::var_os(name)?)));
        Self {
            path: path.into(),
            arguments: Vec::new(),
            environment: inherited.collect(),
            input: None,
            scratch: Arc::clone(scratch),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.insert(name.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    /// Sets variables.
    #[must_use]
    pub fn envs(
        mut self,
        variables: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>,
    ) -> Self {
        for (name, value) in variables {
            self = self.env(name, value);
        }
        self
    }

    /// Uses a file as its standard input, which is empty by default.
    #[must_use]
    pub fn input(mut self, path: impl Into<PathBuf>) -> Self {
        self.input = Some(path.into());
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self) -> Result<Process, Failure> {
        let input = match &self.input {
            Some(path) => Stdio::from(std::fs::File::open(path)?),
            None => Stdio::null(),
        };
        let mut child = Command::new(&self.path)
            .args(&self.arguments)
            .env_clear()
            .envs(&self.environment)
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", self.path.display()))?;
        let pid = child.id().ok_or("a process that was just started has ended")?;
        self.scratch.watch(pid, Ending::Kill)?;
        Ok(Process {
            pid,
            stdout: Capture::of(child.stdout.take()),
            stderr: Capture::of(child.stderr.take()),
            child,
            started: Instant::now(),
            scratch: Arc::clone(&self.scratch),
        })
    }

    /// Starts it and waits for its end, at most `deadline`.
    ///
    /// # Errors
    /// As for [`Program::start`] and [`Process::wait`].
    pub async fn run(&self, deadline: Duration) -> Result<Ended, Failure> {
        self.start()?.wait(deadline).await
    }
}

/// A program that runs; dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    child: Child,
    stdout: Capture,
    stderr: Capture,
    started: Instant,
    scratch: Arc<Scratch>,
}

impl Process {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Standard output so far, in whole lines.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Standard error so far, in whole lines.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// The most memory that it has had resident so far, in bytes (proc(5)).
    ///
    /// # Errors
    /// When it has ended.
    pub fn peak_memory_bytes(&self) -> Result<u64, Failure> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix(" kB"));
        Ok(kib.ok_or("the kernel does not count memory")?.trim().parse::<u64>()? << 10)
    }

    /// Sends a signal to it.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let pid = Pid::from_raw(self.pid.cast_signed()).ok_or("no process has the number 0")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Freezes it by SIGSTOP; when this returns it has stopped.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn freeze(&self) -> Result<(), Failure> {
        self.signal(Signal::STOP)?;
        // A signal sent before the stop takes effect could overtake it.
        while !self.is_stopped()? {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Thaws it.
    ///
    /// # Errors
    /// When it has ended.
    pub fn thaw(&self) -> Result<(), Failure> {
        self.signal(Signal::CONT)
    }

    /// Whether all its threads are stopped, by their states in `/proc` (proc(5)).
    fn is_stopped(&self) -> Result<bool, Failure> {
        for task in std::fs::read_dir(format!("/proc/{}/task", self.pid))? {
            let stat = std::fs::read_to_string(task?.path().join("stat"))?;
            match stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()) {
                Some('T') => {}
                Some('Z' | 'X') => return Err(format!("process {} has ended", self.pid).into()),
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// If the system does not report it.
    pub fn has_ended(&mut self) -> Result<bool, Failure> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits until it has written a line with `text` to standard error.
    ///
    /// # Errors
    /// When it ends before, or `deadline` passes: with its output.
    pub async fn says(&mut self, text: &str, deadline: Duration) -> Result<(), Failure> {
        let begun = Instant::now();
        loop {
            // Checked in this order, so that its last output is not missed.
            let ended = self.has_ended()?;
            if self.stderr().contains(text) {
                return Ok(());
            }
            if ended || begun.elapsed() > deadline {
                let why = if ended { "ended" } else { "timed out" };
                let said = self.stderr();
                return Err(
                    format!("process {} {why} before it said {text:?}:\n{said}", self.pid).into()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for its end.
    ///
    /// When `deadline` passes: the process is killed, and the error holds its
    /// output.
    /// wrote.
    pub async fn wait(mut self, deadline: Duration) -> Result<Ended, Failure> {
        let Ok(status) = tokio::time::timeout(deadline, self.child.wait()).await else {
            let said = self.stderr();
            return Err(
                format!("process {} did not end within {deadline:?}:\n{said}", self.pid).into()
            );
        };
        let status = status?;
        self.scratch.forget(self.pid);
        let took = self.started.elapsed();
        Ok(Ended {
            status,
            stdout: self.stdout.finish().await,
            stderr: self.stderr.finish().await,
            took,
        })
    }

    /// Kills it by SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// As for [`Process::wait`].
    pub async fn kill(self) -> Result<Ended, Failure> {
        self.signal(Signal::KILL)?;
        self.wait(Duration::from_secs(10)).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // `kill_on_drop` follows; the guard forgets only a process known to be gone.
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            self.scratch.forget(self.pid);
        }
    }
}

/// Result of a program.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Its status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// Time that it ran.
    pub took: Duration,
}

impl Ended {
    /// Its exit code; `None` if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Returns itself if it ended with this exit code.
    ///
    /// # Errors
    /// If it ended otherwise: with its output.
    pub fn expect_code(self, code: i32) -> Result<Self, Failure> {
        if self.code() == Some(code) {
            return Ok(self);
        }
        let Self { status, stdout, stderr, .. } = self;
        Err(format!("exit code {code} was expected, not {status}:\n{stdout}{stderr}").into())
    }
}

/// Version of the JSON that the programs print.
const JSON_VERSION: u64 = 1;

impl Ended {
    /// The summary that it printed as JSON: one object, with its version and a list of this
    /// name.
    ///
    /// # Errors
    /// If it printed anything else.
    pub fn json(&self, list: &str) -> Result<Value, Failure> {
        let summary: Value = serde_json::from_str(&self.stdout)?;
        if summary["version"] != JSON_VERSION || !summary[list].is_array() {
            return Err(format!("no version or no list of {list}: {summary}").into());
        }
        Ok(summary)
    }
}

/// Collects the output of a pipe, line by line.
#[derive(Debug)]
struct Capture {
    text: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Capture {
    fn of<P: AsyncRead + Unpin + Send + 'static>(pipe: Option<P>) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let into = Arc::clone(&text);
        let reader = pipe.map(|pipe| {
            tokio::spawn(async move {
                let mut pipe = BufReader::new(pipe);
                let mut line = Vec::new();
                while let Ok(1..) = pipe.read_until(b'\n', &mut line).await {
                    let mut text = into.lock().unwrap_or_else(PoisonError::into_inner);
                    text.push_str(&String::from_utf8_lossy(&line));
                    line.clear();
                }
            })
        });
        Self { text, reader }
    }

    fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the pipe's end, which a grandchild could hold open, and returns all of it.
    async fn finish(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            let _ = tokio::time::timeout(Duration::from_secs(5), reader).await;
        }
        self.text()
    }
}
