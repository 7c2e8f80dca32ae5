//! A fake broker of one topic with one partition. It gives answers that a real one gives
//! only at moments that a test cannot choose: right after its start a broker may report
//! topics and no broker, not even itself.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::kafka::config::Kafka;
use crate::kafka::position::Watermarks;

/// Number of such answers in a test: a race decides what librdkafka then does, in an
/// observer in one of three rounds, in a consumer in one of ten.
pub(super) const ROUNDS: usize = 6;

/// Time within which everything that a test waits for must happen.
pub(super) const LIVENESS: Duration = Duration::from_mins(1);

/// The requests it answers, each with the highest version that it knows.
const LIST_OFFSETS: (i16, i16) = (2, 2);
const METADATA: (i16, i16) = (3, 5);
const FIND_COORDINATOR: (i16, i16) = (10, 1);
const API_VERSIONS: (i16, i16) = (18, 3);
const INIT_PRODUCER_ID: (i16, i16) = (22, 1);

const TOPIC: &str = "t";

/// Offsets that the partition keeps.
pub(super) const KEPT: Watermarks = Watermarks { low: 3, high: 7 };

/// Runs for as long as the test's process.
#[derive(Debug, Clone)]
pub(super) struct Broker {
    port: u16,
    forgetful: Arc<AtomicBool>,
    moved: Arc<AtomicBool>,
    asked_for_topic: Arc<AtomicUsize>,
}

impl Broker {
    pub(super) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let broker = Self {
            port: listener.local_addr()?.port(),
            forgetful: Arc::default(),
            moved: Arc::default(),
            asked_for_topic: Arc::default(),
        };
        let answering = broker.clone();
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let broker = answering.clone();
                // Ends with the connection.
                thread::spawn(move || broker.serve(connection));
            }
        });
        Ok(broker)
    }

    /// Settings of a client for it; `extra` as in `KAFKA_CONFIG`.
    pub(super) fn config(&self, extra: &str) -> Kafka {
        let address = format!("127.0.0.1:{}", self.port);
        Kafka::new(&address, TOPIC).group("g").settings(extra).expect("settings that are allowed")
    }

    /// Number of queries about its topic.
    pub(super) fn asked_for_topic(&self) -> usize {
        self.asked_for_topic.load(Ordering::SeqCst)
    }

    /// Makes the next answer about the topic list no broker.
    pub(super) fn forget_brokers(&self) {
        self.forgetful.store(true, Ordering::SeqCst);
    }

    /// Whether that answer is still pending.
    pub(super) fn forgetful(&self) -> bool {
        self.forgetful.load(Ordering::SeqCst)
    }

    /// Makes it a broker of another cluster from now on.
    pub(super) fn move_cluster(&self) {
        self.moved.store(true, Ordering::SeqCst);
    }

    fn serve(&self, mut connection: TcpStream) -> io::Result<()> {
        loop {
            let mut size = [0; 4];
            connection.read_exact(&mut size)?;
            let mut request = vec![0; usize::try_from(u32::from_be_bytes(size)).unwrap_or(0)];
            connection.read_exact(&mut request)?;
            let Some(answer) = self.answer(&request) else { return Ok(()) };
            let mut framed = Writer::default();
            framed.i32(i32::try_from(answer.len()).unwrap_or(i32::MAX));
            framed.0.extend(answer);
            connection.write_all(&framed.0)?;
        }
    }

    fn answer(&self, request: &[u8]) -> Option<Vec<u8>> {
        let i16_at =
            |at: usize| Some(i16::from_be_bytes(request.get(at..at + 2)?.try_into().ok()?));
        let mut answer = Writer(request.get(4..8)?.to_vec());
        match i16_at(0)? {
            key if key == API_VERSIONS.0 => answer.api_versions(),
            key if key == METADATA.0 => {
                // The client's name, then the number of topics.
                let name = usize::try_from(i16_at(8)?).ok()?;
                let topics = request.get(10 + name..14 + name)?;
                self.metadata(&mut answer, topics != [0; 4]);
            }
            key if key == LIST_OFFSETS.0 => {
                // The last value requested: -2 is the first offset.
                let earliest = request.ends_with(&(-2_i64).to_be_bytes());
                answer.offset(if earliest { KEPT.low } else { KEPT.high });
            }
            key if key == FIND_COORDINATOR.0 => answer.no_coordinator(),
            key if key == INIT_PRODUCER_ID.0 => answer.producer_id(),
            _ => return None,
        }
        Some(answer.0)
    }

    fn metadata(&self, answer: &mut Writer, of_topic: bool) {
        let known = !(of_topic && self.forgetful.swap(false, Ordering::SeqCst));
        self.asked_for_topic.fetch_add(usize::from(of_topic), Ordering::SeqCst);
        answer.i32(0);
        answer.i32(i32::from(known));
        if known {
            answer.i32(1);
            answer.text("127.0.0.1");
            answer.i32(self.port.into());
            answer.i16(-1);
        }
        answer.text(if self.moved.load(Ordering::SeqCst) { "another" } else { "first" });
        answer.i32(1);
        answer.i32(i32::from(of_topic));
        if of_topic {
            answer.i16(0);
            answer.text(TOPIC);
            answer.0.push(0);
            answer.i32(1);
            // LEADER_NOT_AVAILABLE, and no leader.
            answer.i16(if known { 0 } else { 5 });
            answer.i32(0);
            answer.i32(if known { 1 } else { -1 });
            for replicas in [1, 1, 0] {
                answer.i32(replicas);
                (0..replicas).for_each(|_| answer.i32(1));
            }
        }
    }
}

/// An encoder for answers of Kafka.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn i16(&mut self, value: i16) {
        self.0.extend(value.to_be_bytes());
    }

    fn i32(&mut self, value: i32) {
        self.0.extend(value.to_be_bytes());
    }

    fn i64(&mut self, value: i64) {
        self.0.extend(value.to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.i16(i16::try_from(text.len()).unwrap_or(i16::MAX));
        self.0.extend(text.as_bytes());
    }

    fn api_versions(&mut self) {
        let known = [LIST_OFFSETS, METADATA, FIND_COORDINATOR, API_VERSIONS, INIT_PRODUCER_ID];
        self.i16(0);
        // A compact array has a length of one more; no tags after each entry, nor after
        // all.
        self.0.push(u8::try_from(known.len() + 1).unwrap_or(u8::MAX));
        for (key, highest) in known {
            self.i16(key);
            self.i16(0);
            self.i16(highest);
            self.0.push(0);
        }
        self.i32(0);
        self.0.push(0);
    }

    fn offset(&mut self, offset: i64) {
        self.i32(0);
        self.i32(1);
        self.text(TOPIC);
        self.i32(1);
        self.i32(0);
        self.i16(0);
        self.i64(-1);
        self.i64(offset);
    }

    fn no_coordinator(&mut self) {
        self.i32(0);
        // COORDINATOR_NOT_AVAILABLE
        self.i16(15);
        self.i16(-1);
        self.i32(-1);
        self.text("");
        self.i32(-1);
    }
    fn producer_id(&mut self) {
        self.i32(0);
        self.i16(0);
        self.i64(1);
        self.i16(0);
    }
}
