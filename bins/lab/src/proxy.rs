//! A TCP proxy in front of PostgreSQL that injects faults: at a message of the wire
//! protocol, or on the whole link.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, sink};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::Failure;

/// Starts a server that accepts connections and never answers; returns its port.
///
/// # Errors
/// When no port is free.
pub async fn silent() -> Result<u16, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    Ok(port)
}

/// Message of a client at which a fault happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The simple query `commit`.
    Commit,
    /// A piece of a COPY.
    Copy,
}

/// Fault of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The message is not forwarded; both sides are cut.
    Cut,
    /// The message is forwarded; once the server has answered, both sides are cut and the
    /// answer is lost.
    LoseAnswer,
    /// The message is held until [`Proxy::leave_behind`], then forwarded to a server whose
    /// client was cut before.
    Hold,
}

/// Point from which a client counts as frozen: nothing is forwarded in either direction,
/// nothing is closed. Counted from the first transaction that begins afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freeze {
    /// It has sent this many messages, and half of another one.
    During(usize),
    /// It has sent this many messages.
    Behind(usize),
    /// It has received this many bytes.
    Answered(usize),
}

/// Messages and bytes of a transaction so far, and the point at which it freezes.
#[derive(Debug)]
struct Passed {
    freeze: Freeze,
    messages: usize,
    answered: usize,
}

/// State of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Whole,
    /// Nothing is forwarded, nothing is closed.
    Silent,
    /// Connections are closed as soon as they are made.
    Down,
}

/// A message that is held, by the port of its connection to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    No,
    By(u16),
    Released,
}

#[derive(Debug)]
struct Shared {
    server: String,
    /// The next fault.
    plan: Mutex<Option<(At, Fault)>>,
    freeze: Mutex<Option<Freeze>>,
    faults: watch::Sender<u32>,
    link: watch::Sender<Link>,
    held: watch::Sender<Held>,
}

/// The proxy; connections through it end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.link.send_replace(Link::Down);
        self.accepting.abort();
    }
}

impl Proxy {
    /// Starts a proxy to `server` (`host:port`), which forwards everything.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(server: String) -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            server,
            plan: Mutex::default(),
            freeze: Mutex::default(),
            faults: watch::Sender::new(0),
            link: watch::Sender::new(Link::Whole),
            held: watch::Sender::new(Held::No),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { port, shared, accepting })
    }

    /// Its port on the loopback address.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Injects this fault at the next such message.
    pub fn break_next(&self, at: At, fault: Fault) {
        *self.shared.plan() = Some((at, fault));
    }

    /// Freezes the client that begins the next transaction, which counts as a fault.
    pub fn freeze_next(&self, freeze: Freeze) {
        *self.shared.freeze.lock().unwrap_or_else(PoisonError::into_inner) = Some(freeze);
    }

    /// Number of faults so far.
    pub fn faults(&self) -> u32 {
        *self.shared.faults.borrow()
    }

    /// Waits until there were this many faults.
    pub async fn has_broken(&self, faults: u32) {
        let mut broken = self.shared.faults.subscribe();
        // The sender is ours.
        let _ = broken.wait_for(|broken| *broken >= faults).await;
    }

    /// Waits until a message is held, and returns the port by which the server knows its
    /// connection.
    pub async fn held(&self) -> u16 {
        let mut held = self.shared.held.subscribe();
        loop {
            if let Held::By(port) = *held.borrow_and_update() {
                return port;
            }
            let _ = held.changed().await;
        }
    }

    /// Cuts the client of the held message, and forwards the message to the server.
    pub fn leave_behind(&self) {
        self.shared.held.send_replace(Held::Released);
    }

    /// Stops forwarding, and closes nothing. Connections of this time stay silent, as behind a
    /// middlebox that has forgotten them.
    pub fn silence(&self) {
        self.shared.link.send_replace(Link::Silent);
    }

    /// Cuts all connections and refuses new ones.
    pub fn cut(&self) {
        self.shared.link.send_replace(Link::Down);
    }

    /// Forwards new connections again.
    pub fn mend(&self) {
        self.shared.link.send_replace(Link::Whole);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // The way a connection ends is no error of the proxy.
            let _ = relay(client, &shared).await;
        });
    }
}

async fn relay(client: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut link = shared.link.subscribe();
    let mut client = Some(client);
    let mut server = None;
    if *link.borrow() == Link::Whole {
        let server = server.insert(TcpStream::connect(&shared.server).await?);
        tokio::select! {
            biased;
            _ = link.wait_for(|link| *link != Link::Whole) => {}
            ended = pass(&mut client, server, shared) => return ended,
        }
    }
    if *link.borrow() == Link::Silent {
        // Both sides stay open.
        let _ = shared.link.subscribe().wait_for(|link| *link == Link::Down).await;
    }
    Ok(())
}

/// Forwards bytes in both directions until one side ends or a fault happens.
async fn pass(
    client_slot: &mut Option<TcpStream>,
    server: &mut TcpStream,
    shared: &Shared,
) -> std::io::Result<()> {
    let Some(client) = client_slot else { return Ok(()) };
    let (mut requests, mut answers) = (Vec::new(), Vec::new());
    let mut started = false;
    let mut frozen: Option<Passed> = None;
    loop {
        tokio::select! {
            read = client.read_buf(&mut requests) => {
                if read? == 0 {
                    return Ok(());
                }
                while let Some(message) = take_message(&mut requests, &mut started) {
                    if let Some(passed) = &mut frozen
                        && let Some(part) = passed.last_of(&message)
                    {
                        server.write_all(part).await?;
                        return shared.stand_still().await;
                    }
                    if begins(&message) {
                        frozen = frozen.or_else(|| shared.frozen_next());
                    }
                    match shared.fault(&message) {
                        None => server.write_all(&message).await?,
                        Some(Fault::Cut) => return Ok(()),
                        Some(Fault::LoseAnswer) => {
                            server.write_all(&message).await?;
                            server.read_buf(&mut answers).await?;
                            return Ok(());
                        }
                        Some(Fault::Hold) => {
                            shared.hold(server.local_addr()?.port()).await;
                            *client_slot = None;
                            server.write_all(&message).await?;
                            return drain(server).await;
                        }
                    }
                }
            }
            read = server.read_buf(&mut answers) => {
                if read? == 0 {
                    return Ok(());
                }
                if let Some(passed) = &mut frozen
                    && let Some(part) = passed.last_answer(&answers)
                {
                    client.write_all(part).await?;
                    return shared.stand_still().await;
                }
                client.write_all(&mem::take(&mut answers)).await?;
            }
        }
    }
}

async fn drain(mut from: impl AsyncRead + Unpin) -> std::io::Result<()> {
    tokio::io::copy(&mut from, &mut sink()).await.map(drop)
}

/// A request for TLS, which comes before a connection's first message and looks like it.
/// Servers here refuse TLS.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// The first whole message: a length of four bytes that includes itself, after a type byte in
/// all but a connection's first message (PostgreSQL's manual, 53.7).
fn take_message(bytes: &mut Vec<u8>, started: &mut bool) -> Option<Vec<u8>> {
    let kind = usize::from(*started);
    let length = bytes.get(kind..)?.first_chunk::<4>()?;
    let end = kind + u32::from_be_bytes(*length) as usize;
    if bytes.len() < end {
        return None;
    }
    let rest = bytes.split_off(end);
    *started |= *bytes != SSL_REQUEST;
    Some(mem::replace(bytes, rest))
}

/// Whether it is a simple query that begins a transaction.
fn begins(message: &[u8]) -> bool {
    message.first() == Some(&b'Q')
        && message.get(5..).is_some_and(|sql| sql.to_ascii_lowercase().starts_with(b"begin"))
}

impl Passed {
    /// Bytes of a message to be forwarded, if it is the last one.
    fn last_of<'a>(&mut self, message: &'a [u8]) -> Option<&'a [u8]> {
        let sent = self.messages;
        self.messages += 1;
        match self.freeze {
            Freeze::During(messages) => (sent == messages).then(|| &message[..message.len() / 2]),
            Freeze::Behind(messages) => (sent == messages).then_some(&[]),
            Freeze::Answered(_) => None,
        }
    }

    /// Bytes of an answer to be forwarded, if it is the last one.
    fn last_answer<'a>(&mut self, answer: &'a [u8]) -> Option<&'a [u8]> {
        let Freeze::Answered(bytes) = self.freeze else { return None };
        let left = bytes - self.answered;
        self.answered += answer.len();
        (self.answered > bytes).then(|| &answer[..left])
    }
}

impl At {
    fn is(self, message: &[u8]) -> bool {
        match self {
            Self::Commit => {
                message.first() == Some(&b'Q')
                    && message.get(5..).is_some_and(|sql| sql.eq_ignore_ascii_case(b"commit\0"))
            }
            Self::Copy => message.first() == Some(&b'd'),
        }
    }
}

impl Shared {
    fn plan(&self) -> MutexGuard<'_, Option<(At, Fault)>> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fault planned for a message.
    fn fault(&self, message: &[u8]) -> Option<Fault> {
        let (_, fault) = self.plan().take_if(|(at, _)| at.is(message))?;
        self.faults.send_modify(|faults| *faults += 1);
        Some(fault)
    }

    /// The planned freeze of the client that begins a transaction.
    fn frozen_next(&self) -> Option<Passed> {
        let freeze = self.freeze.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(Passed { freeze, messages: 0, answered: 0 })
    }

    /// Forwards nothing until the link is down.
    async fn stand_still(&self) -> std::io::Result<()> {
        self.faults.send_modify(|faults| *faults += 1);
        let _ = self.link.subscribe().wait_for(|link| *link == Link::Down).await;
        Ok(())
    }

    async fn hold(&self, port: u16) {
        let mut held = self.held.subscribe();
        self.held.send_replace(Held::By(port));
        let _ = held.wait_for(|held| *held == Held::Released).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_separated_wherever_the_stream_is_cut() {
        let startup = [0, 0, 0, 8, 0, 3, 0, 0];
        let commit = *b"Q\0\0\0\x0bCOMMIT\0";
        let copy = *b"d\0\0\0\x06ab";
        let stream = [&SSL_REQUEST[..], &startup, &commit, &copy].concat();
        let (mut bytes, mut started, mut messages) = (Vec::new(), false, Vec::new());
        for byte in stream {
            bytes.push(byte);
            messages.extend(take_message(&mut bytes, &mut started));
        }
        assert_eq!(messages, [&SSL_REQUEST[..], &startup, &commit, &copy]);
        let found = |at: At| messages.iter().map(|message| at.is(message)).collect::<Vec<_>>();
        assert_eq!(found(At::Commit), [false, false, true, false]);
        assert_eq!(found(At::Copy), [false, false, false, true]);
    }
}
