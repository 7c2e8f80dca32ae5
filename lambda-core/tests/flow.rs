//! The flow between a source and a sink, in memory: every record is stored once, whatever
//! fails or interferes.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use lambda_core::Stop;
use lambda_core::batch::{Batch, Body};
use lambda_core::dead_letter::Reason;
use lambda_core::delivery::state::{Action, Input, State};
use lambda_core::delivery::{Flow, FlowConfig};
use lambda_core::error::{Error, Server};
use lambda_core::health::Health;
use lambda_core::job::JobRef;
use lambda_core::memory::{Contents, MemorySink};
use lambda_core::metrics::Outcomes;
use lambda_core::outcome::Authority;
use lambda_core::progress::{LaneId, LaneName, Progress};
use lambda_core::sink::{ClaimRequest, Committed, Durability, Sink};
use lambda_core::source::{Event, Grant, Source};
use lambda_core::testing::draft::{Draft, SAMPLES, Sample};
use lambda_core::testing::source::Lists;

/// A sink that sometimes fails, refuses records whose key starts with "bad", sometimes lets
/// a rival take a lane first, and sometimes crashes, which loses what was committed since
/// the last claim.
struct Trouble {
    inner: MemorySink,
    durable: Mutex<Contents>,
    seed: AtomicU64,
    rivals: bool,
    failures: bool,
}

impl Trouble {
    fn new(seed: u64) -> Self {
        let (inner, durable) = (MemorySink::new(), Mutex::default());
        Self { inner, durable, seed: seed.into(), rivals: true, failures: true }
    }

    fn chance(&self, one_in: u64) -> bool {
        let seed = self.seed.fetch_add(1, Ordering::Relaxed);
        fastrand::Rng::with_seed(seed).u64(0..one_in) == 0
    }
}

fn name() -> LaneName {
    LaneName { pipeline: SAMPLES.name().into(), source: "a topic".into(), partition: 0 }
}

fn request(name: LaneName) -> ClaimRequest {
    ClaimRequest {
        name,
        first_position: 0.into(),
        format: "json".into(),
        owner: "rival".into(),
        group: None,
        take_over: false,
        given_up: None,
    }
}

#[async_trait]
impl Sink for Trouble {
    async fn claim(&self, request: &ClaimRequest) -> Result<Progress, Error> {
        if self.failures && self.chance(3) {
            return Err(unreachable_server());
        }
        let claimed = self.inner.claim(request).await;
        *self.durable.lock().unwrap() = self.inner.contents();
        claimed
    }

    async fn commit(&self, batch: &Batch, durability: Durability) -> Result<Committed, Error> {
        tokio::time::sleep(Duration::from_millis(5)).await;
        if self.rivals && self.chance(5) {
            let lanes = self.inner.contents().lanes;
            let lane = &lanes[&batch.spans()[0].lane];
            self.inner.claim(&request(lane.name.clone())).await?;
            *self.durable.lock().unwrap() = self.inner.contents();
        }
        if self.failures && self.chance(9) {
            self.inner.rewind(self.durable.lock().unwrap().clone());
            return Err(unreachable_server());
        }
        if self.failures && self.chance(4) {
            let contended = self.chance(2);
            return Err(if contended {
                Error::Contended { tries: 5 }
            } else {
                unreachable_server()
            });
        }
        let bad = |entry: &lambda_core::batch::Entry| match &entry.body {
            Body::Row { key, .. } => batch.row(*key).starts_with(b"bad"),
            Body::Rejected(_) | Body::Skipped => false,
        };
        if batch.entries().iter().any(bad) {
            let (code, object) = ("23514".into(), "samples_check".into());
            return Err(Error::Refused { code, object, source: "no".into() });
        }
        self.inner.commit(batch, durability).await
    }

    async fn stored(&self, lanes: &[LaneId]) -> Result<Vec<Progress>, Error> {
        self.inner.stored(lanes).await
    }
}

fn unreachable_server() -> Error {
    Error::Unreachable { server: Server::Postgres, source: "gone".into() }
}

fn config(patience: Option<Duration>) -> FlowConfig {
    let (owner, group, take_over) = ("test".into(), None, false);
    FlowConfig {
        authority: Authority::Stream,
        pipeline: "samples".into(),
        format: "json".into(),
        owner,
        group,
        take_over,
        patience,
        health: Health::default(),
        outcomes: Outcomes::default(),
    }
}

fn lists(partitions: usize, records: usize, bad_every: usize) -> Vec<Vec<Sample>> {
    let list = |partition| {
        let sample = move |index: usize| match index % bad_every {
            7 => Sample::new(&format!("bad{partition}-{index}"), 1),
            _ => Sample::new(&format!("good{partition}-{index}"), index as i64),
        };
        (0..records).map(sample).collect()
    };
    (0..partitions).map(list).collect()
}

async fn run(lists: Vec<Vec<Sample>>, sink: &Arc<Trouble>, seed: u64) -> Result<(), Error> {
    let source = Lists::new(lists, fastrand::Rng::with_seed(seed));
    let stop = Stop::new();
    Flow::new(config(None), source, Arc::clone(sink) as Arc<dyn Sink>).run(stop).await.1
}

fn keys(lists: &[Vec<Sample>], prefix: &str) -> BTreeSet<Vec<u8>> {
    let all = lists.iter().flatten().filter(|sample| sample.id.starts_with(prefix));
    all.map(|sample| sample.id.clone().into_bytes()).collect()
}

fn assert_each_stored_once(lists: &[Vec<Sample>], contents: &Contents) {
    assert_eq!(contents.rows.keys().cloned().collect::<BTreeSet<_>>(), keys(lists, "good"));
    let letters: BTreeSet<_> =
        contents.dead_letters.values().map(|letter| letter.payload.clone()).collect();
    assert_eq!(letters, keys(lists, "bad"));
    for letter in contents.dead_letters.values() {
        assert_eq!(letter.reject.reason, Reason::Refused);
        assert!(letter.reject.detail.contains("23514"), "{}", letter.reject.detail);
    }
    for progress in contents.lanes.values() {
        assert_eq!(progress.position, lists[progress.name.partition as usize].len() as i64);
        assert_eq!(progress.counts.read, progress.position, "each record was counted once");
        assert!(progress.counts.balanced());
    }
}

#[tokio::test(start_paused = true)]
async fn each_record_is_stored_once_whatever_fails_or_interferes() {
    for seed in 0..100 {
        let (lists, sink) = (lists(3, 60, 29), Arc::new(Trouble::new(seed * 1_000)));
        run(lists.clone(), &sink, seed).await.unwrap();
        assert_each_stored_once(&lists, &sink.inner.contents());
    }
}

#[tokio::test(start_paused = true)]
async fn a_table_that_refuses_everything_stops_the_flow_instead_of_filling_the_dead_letters() {
    let all_bad: Vec<Sample> = (0..2_000).map(|n| Sample::new(&format!("bad{n}"), 1)).collect();
    let sink = Arc::new(Trouble { rivals: false, failures: false, ..Trouble::new(1) });
    let error = run(vec![all_bad], &sink, 1).await.unwrap_err();
    assert_eq!(error.exit_code(), 78, "{}", error.chain());
    let letters = sink.inner.contents().dead_letters.len();
    assert!((400..=600).contains(&letters), "{letters} dead letters");
}

#[tokio::test(start_paused = true)]
async fn a_stop_keeps_what_is_in_flight_and_leaves_the_rest_unread() {
    let lists = lists(2, 500, 1_000);
    let sink = Arc::new(Trouble { rivals: false, failures: false, ..Trouble::new(1) });
    let source = Lists::new(lists.clone(), fastrand::Rng::with_seed(1));
    let stop = Stop::new();
    let flow = Flow::new(config(None), source, Arc::clone(&sink) as Arc<dyn Sink>);
    let running = tokio::spawn(flow.run(stop.clone()));
    tokio::time::sleep(Duration::from_millis(100)).await;
    stop.stop();
    running.await.unwrap().1.unwrap();
    let contents = sink.inner.contents();
    assert!(!contents.rows.is_empty() && contents.rows.len() < 990, "{}", contents.rows.len());
    let read: i64 = contents.lanes.values().map(|lane| lane.counts.read).sum();
    assert_eq!(read, contents.lanes.values().map(|lane| lane.position).sum::<i64>());
    // The next run continues where this one stopped.
    run(lists.clone(), &sink, 2).await.unwrap();
    assert_eq!(sink.inner.contents().rows.len() + sink.inner.contents().dead_letters.len(), 1_000);
}

/// A sink that loses its connection over a batch of more than this many records, and
/// answers other queries or not, as set.
struct Chokes {
    inner: MemorySink,
    records_max: usize,
    answers: bool,
    /// Sizes of the batches it received.
    tried: Mutex<Vec<usize>>,
}

impl Chokes {
    fn new(records_max: usize, answers: bool) -> Self {
        Self { inner: MemorySink::new(), records_max, answers, tried: Mutex::default() }
    }
}

#[async_trait]
impl Sink for Chokes {
    async fn claim(&self, claim: &ClaimRequest) -> Result<Progress, Error> {
        self.inner.claim(claim).await
    }
    async fn commit(&self, batch: &Batch, durability: Durability) -> Result<Committed, Error> {
        self.tried.lock().unwrap().push(batch.entries().len());
        if batch.entries().len() > self.records_max {
            return Err(unreachable_server());
        }
        self.inner.commit(batch, durability).await
    }
    async fn stored(&self, lanes: &[LaneId]) -> Result<Vec<Progress>, Error> {
        if self.answers { self.inner.stored(lanes).await } else { Err(unreachable_server()) }
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_always_breaks_the_connection_is_halved_while_the_server_answers() {
    let sink = Arc::new(Chokes::new(1, true));
    let source = Lists::new(lists(1, 40, 1_000), fastrand::Rng::with_seed(1));
    let stop = Stop::new();
    Flow::new(config(None), source, Arc::clone(&sink) as Arc<dyn Sink>).run(stop).await.1.unwrap();
    assert_eq!(sink.inner.contents().rows.len(), 40);
    // Each size is tried exactly three times before it is halved.
    let tried = sink.tried.lock().unwrap().clone();
    let mut large = tried.chunk_by(|a, b| a == b).filter(|tries| tries[0] > 1).peekable();
    assert!(large.peek().is_some(), "a batch of several records: {tried:?}");
    assert!(large.all(|tries| tries.len() % 3 == 0), "{tried:?}");
}

#[tokio::test(start_paused = true)]
async fn a_batch_stays_whole_while_the_server_is_away() {
    let sink = Arc::new(Chokes::new(0, false));
    let source = Lists::new(lists(1, 40, 1_000), fastrand::Rng::with_seed(1));
    let stop = Stop::new();
    let patience = Some(Duration::from_mins(5));
    let flow = Flow::new(config(patience), source, Arc::clone(&sink) as Arc<dyn Sink>);
    assert_eq!(flow.run(stop).await.1.unwrap_err().exit_code(), 69);
    let tried = sink.tried.lock().unwrap().clone();
    assert!(tried.len() > 10 && tried.iter().all(|size| *size == tried[0]), "{tried:?}");
}

#[tokio::test]
async fn failures_are_counted_for_one_batch_and_again_for_its_halves() {
    let progress = MemorySink::new().claim(&request(name())).await.unwrap();
    let records = (0..4).map(|position| (position, Sample::new("id", position)));
    let draft = Draft::new(Authority::Stream, &SAMPLES).lane(&progress, 4);
    let batch = records.fold(draft, |draft, (at, record)| draft.record(at, &record)).build();
    let mut state = State::new(Authority::Stream);
    let fail = |state: &mut State, error| {
        let actions = state.step(Input::CommitFailed(error));
        let asks = matches!(actions[..], [Action::Ask(_)]);
        state.step(Input::Retry);
        asks
    };
    state.step(Input::Batch(batch));
    assert!(!fail(&mut state, unreachable_server()) && !fail(&mut state, unreachable_server()));
    fail(&mut state, Error::Contended { tries: 5 });
    assert!(!fail(&mut state, unreachable_server()), "the first failure of the first half");
    assert!(!fail(&mut state, unreachable_server()) && fail(&mut state, unreachable_server()));
}

#[tokio::test]
async fn a_batch_that_meets_deadlocks_is_tried_again_whole() {
    let progress = MemorySink::new().claim(&request(name())).await.unwrap();
    let draft = Draft::new(Authority::Stream, &SAMPLES).lane(&progress, 2);
    let draft = draft.record(0, &Sample::new("a", 1)).record(1, &Sample::new("b", 1));
    let (batch, mut state) = (draft.build(), State::new(Authority::Stream));
    let whole = batch.entries().len();
    state.step(Input::Batch(batch));
    for _ in 0..20 {
        let deadlock = Error::Deadlock { what: "store a batch", source: "40P01".into() };
        let actions = state.step(Input::CommitFailed(deadlock));
        assert!(matches!(actions[..], [Action::Wait(_)]), "{actions:?}");
        let actions = state.step(Input::Retry);
        let [Action::Commit(again, ..)] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!(again.entries().len(), whole);
    }
}

#[tokio::test]
async fn a_lane_that_is_fenced_after_it_was_revoked_is_left_to_its_new_owner() {
    let claims = |actions: Vec<Action>| {
        actions.iter().filter(|action| matches!(action, Action::Claim(..))).count()
    };
    for revoked in [true, false] {
        let (sink, name) = (MemorySink::new(), name());
        let grant = Grant { name: name.clone(), first_position: 0.into(), given_up: None };
        let mut state = State::new(Authority::Stream);
        let granted = state.step(Input::Granted(vec![grant]));
        let [Action::Claim(generation, _)] = granted[..] else { panic!("{granted:?}") };
        let progress = sink.claim(&request(name.clone())).await.unwrap();
        state.step(Input::Claimed(generation, progress.clone()));
        let batch = Draft::new(Authority::Stream, &SAMPLES).lane(&progress, 1).build();
        state.step(Input::Batch(batch.clone()));
        // While the commit is in flight, another member takes the lane.
        sink.claim(&request(name)).await.unwrap();
        let committed = sink.commit(&batch, Durability::Visible).await.unwrap();
        assert_eq!(committed.fenced, [progress.lane]);
        assert_eq!(claims(state.step(Input::Committed(committed))), 0, "the source comes first");
        assert!(state.awaits_news());
        let news = if revoked { Input::Revoked(vec![0]) } else { Input::NoNews };
        assert_eq!(claims(state.step(news)), usize::from(!revoked));
        assert!(!state.awaits_news());
    }
}

#[tokio::test]
async fn a_check_that_is_due_during_a_batch_follows_it() {
    let (sink, name) = (MemorySink::new(), name());
    let mut state = State::new(Authority::Stream);
    let grant = Grant { name: name.clone(), first_position: 0.into(), given_up: None };
    let granted = state.step(Input::Granted(vec![grant]));
    let [Action::Claim(generation, _)] = granted[..] else { panic!("{granted:?}") };
    let progress = sink.claim(&request(name)).await.unwrap();
    state.step(Input::Claimed(generation, progress.clone()));
    let batch = Draft::new(Authority::Stream, &SAMPLES).lane(&progress, 1).build();
    for due in [true, false] {
        state.step(Input::Batch(batch.clone()));
        if due {
            assert!(state.step(Input::Check).is_empty(), "one commit at a time");
        }
        let committed = Committed { stored: vec![progress.clone()], fenced: Vec::new() };
        let checks = |actions: Vec<Action>| {
            let nothing = |action: &Action| match action {
                Action::Commit(batch, ..) => batch.entries().is_empty(),
                _ => false,
            };
            actions.iter().filter(|action| nothing(action)).count()
        };
        let actions = state.step(Input::Committed(committed.clone()));
        assert_eq!(checks(actions), usize::from(due));
        if due {
            assert_eq!(checks(state.step(Input::Committed(committed))), 0, "once");
        }
    }
}

/// A sink whose commits take this long for each record, and whose last commit of a drain
/// never ends. It answers other queries, or does not.
struct Slowly {
    inner: MemorySink,
    each: Duration,
    answers: bool,
    /// Sizes of the batches it received, and how long each might take.
    tried: Mutex<Vec<(usize, Option<Duration>)>>,
}

impl Slowly {
    fn new(each: Duration, answers: bool) -> Arc<Self> {
        Arc::new(Self { inner: MemorySink::new(), each, answers, tried: Mutex::default() })
    }

    fn tries(&self, batch: &Batch, patience: Option<Duration>) {
        self.tried.lock().unwrap().push((batch.entries().len(), patience));
    }

    async fn store(&self, batch: &Batch, wanted: Durability) -> Result<Committed, Error> {
        if wanted == Durability::Durable && !self.each.is_zero() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(self.each * batch.entries().len() as u32).await;
        self.inner.commit(batch, wanted).await
    }
}

#[async_trait]
impl Sink for Slowly {
    async fn claim(&self, claim: &ClaimRequest) -> Result<Progress, Error> {
        self.inner.claim(claim).await
    }
    async fn commit(&self, batch: &Batch, wanted: Durability) -> Result<Committed, Error> {
        self.tries(batch, None);
        self.store(batch, wanted).await
    }
    async fn commit_within(
        &self,
        batch: &Batch,
        wanted: Durability,
        patience: Duration,
    ) -> Result<Committed, Error> {
        self.tries(batch, Some(patience));
        let done = tokio::time::timeout(patience, self.store(batch, wanted)).await;
        done.unwrap_or_else(|_| Err(Error::Slow { waited: patience, holdup: "a lock".into() }))
    }
    async fn stored(&self, lanes: &[LaneId]) -> Result<Vec<Progress>, Error> {
        if self.answers { self.inner.stored(lanes).await } else { Err(unreachable_server()) }
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_takes_longer_than_a_minute_is_halved_and_never_given_up() {
    let stop = Stop::new();
    // The drain's last commit never ends: this flow waits only for that one, which shows
    // that everything else is stored.
    let sink = Slowly::new(Duration::from_secs(100), true);
    let source = Lists::new(lists(1, 16, 1_000), fastrand::Rng::with_seed(1));
    let patience = Some(Duration::from_secs(30));
    let flow = Flow::new(config(patience), source, Arc::clone(&sink) as Arc<dyn Sink>);
    let running = tokio::spawn(flow.run(stop));
    tokio::time::sleep(Duration::from_hours(5)).await;
    assert!(!running.is_finished(), "nothing is given up while the server answers");
    assert_eq!(sink.inner.contents().rows.len(), 16);
    let tried = sink.tried.lock().unwrap().clone();
    let minute = Duration::from_mins(1);
    for (records, patience) in &tried {
        assert_eq!(patience.is_some(), *records > 1, "one record is never given up: {tried:?}");
        assert!(patience.is_none_or(|patience| patience >= minute), "{tried:?}");
    }
    let largest = tried.iter().max_by_key(|(records, _)| *records).unwrap();
    assert!(largest.0 > 1 && tried.iter().any(|(_, patience)| *patience > largest.1), "{tried:?}");
}

/// Result of a flow that is stopped while `sink` stores a batch.
async fn stopped_over(sink: Arc<dyn Sink>) -> Result<(), Error> {
    let source = Lists::new(lists(1, 5, 100), fastrand::Rng::with_seed(1));
    let stop = Stop::new();
    let running = tokio::spawn(Flow::new(config(None), source, sink).run(stop.clone()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.stop();
    let ended = tokio::time::timeout(Duration::from_secs(20), running).await;
    ended.unwrap().unwrap().1
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_no_commit_longer_than_a_process_has_to_end() {
    let minutes = Duration::from_mins(5);
    let error = stopped_over(Slowly::new(minutes, true)).await.unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{}", error.chain());
    assert_eq!(error.exit_code(), 75, "the server answers");
    let error = stopped_over(Slowly::new(minutes, false)).await.unwrap_err();
    assert_eq!(error.exit_code(), 69, "the server does not answer: {}", error.chain());
    // Only the drain's last commit never ends.
    let error = stopped_over(Slowly::new(Duration::from_secs(1), true)).await.unwrap_err();
    assert_eq!(error.exit_code(), 75, "{}", error.chain());
}

#[tokio::test(start_paused = true)]
async fn a_stop_tries_again_over_a_connection_that_broke_while_idle() {
    /// Fails the drain's last commit until a while after the stop, as closed connections of a
    /// pool do.
    struct Broken(MemorySink, tokio::time::Instant);

    #[async_trait]
    impl Sink for Broken {
        async fn claim(&self, claim: &ClaimRequest) -> Result<Progress, Error> {
            self.0.claim(claim).await
        }
        async fn commit(&self, batch: &Batch, wanted: Durability) -> Result<Committed, Error> {
            let broken = self.1.elapsed() < Duration::from_secs(3);
            if wanted == Durability::Durable && broken {
                return Err(unreachable_server());
            }
            self.0.commit(batch, wanted).await
        }
        async fn stored(&self, lanes: &[LaneId]) -> Result<Vec<Progress>, Error> {
            self.0.stored(lanes).await
        }
    }

    stopped_over(Arc::new(Broken(MemorySink::new(), tokio::time::Instant::now()))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn patience_ends_only_with_a_server_that_does_not_answer() {
    /// Answers, but refuses commits for ten minutes.
    struct Full(MemorySink, tokio::time::Instant);

    #[async_trait]
    impl Sink for Full {
        async fn claim(&self, claim: &ClaimRequest) -> Result<Progress, Error> {
            self.0.claim(claim).await
        }
        async fn commit(&self, batch: &Batch, wanted: Durability) -> Result<Committed, Error> {
            if self.1.elapsed() < Duration::from_mins(10) {
                let (what, remedy) = ("store a batch", "make room");
                let (server, source) = (Server::Postgres, "full".into());
                return Err(Error::Temporary { server, what, remedy, source });
            }
            self.0.commit(batch, wanted).await
        }
        async fn stored(&self, lanes: &[LaneId]) -> Result<Vec<Progress>, Error> {
            self.0.stored(lanes).await
        }
    }

    let source = Lists::new(lists(1, 5, 100), fastrand::Rng::with_seed(1));
    let stop = Stop::new();
    let sink = Arc::new(Full(MemorySink::new(), tokio::time::Instant::now()));
    let flow = Flow::new(config(Some(Duration::from_mins(1))), source, sink);
    flow.run(stop).await.1.unwrap();
}

#[tokio::test]
async fn the_rest_of_a_jobs_batch_is_no_takeover_when_its_lane_was_rewound() {
    let (sink, name) = (MemorySink::new(), name());
    let authority = Authority::Batch(JobRef { number: 1, as_of_micros: 0 });
    let mut state = State::new(authority);
    let grant = Grant { name: name.clone(), first_position: 0.into(), given_up: None };
    let granted = state.step(Input::Granted(vec![grant]));
    let [Action::Claim(generation, _)] = granted[..] else { panic!("{granted:?}") };
    let progress = sink.claim(&request(name)).await.unwrap();
    let lane = progress.lane;
    state.step(Input::Claimed(generation, progress.clone()));
    state.step(Input::Batch(Draft::new(authority, &SAMPLES).lane(&progress, 4).build()));
    // The batch is halved, and the database loses the progress that the halves follow.
    state.step(Input::CommitFailed(Error::Contended { tries: 5 }));
    for _half in 0..2 {
        let fenced = Committed { stored: Vec::new(), fenced: vec![lane] };
        let actions = state.step(Input::Committed(fenced));
        let ends = actions.iter().any(|action| matches!(action, Action::Finish(_)));
        assert!(!ends, "{actions:?}");
    }
    let claimed = state.step(Input::NoNews);
    assert!(matches!(claimed[..], [Action::Claim(..)]), "{claimed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_flow_without_patience_left_reports_what_it_waited_for() {
    struct Away;

    #[async_trait]
    impl Sink for Away {
        async fn claim(&self, claim: &ClaimRequest) -> Result<Progress, Error> {
            MemorySink::new().claim(claim).await
        }
        async fn commit(&self, _: &Batch, _: Durability) -> Result<Committed, Error> {
            Err(unreachable_server())
        }
        async fn stored(&self, _: &[LaneId]) -> Result<Vec<Progress>, Error> {
            Err(unreachable_server())
        }
    }

    let source = Lists::new(lists(1, 5, 100), fastrand::Rng::with_seed(1));
    let stop = Stop::new();
    let patience = Some(Duration::from_secs(30));
    let (_, result) = Flow::new(config(patience), source, Arc::new(Away)).run(stop).await;
    assert_eq!(result.unwrap_err().exit_code(), 69);
}

/// A sink whose first commit takes ten minutes, as one that waits for a server may.
struct Slow(MemorySink, AtomicU64);

#[async_trait]
impl Sink for Slow {
    async fn claim(&self, request: &ClaimRequest) -> Result<Progress, Error> {
        self.0.claim(request).await
    }

    async fn commit(&self, batch: &Batch, durability: Durability) -> Result<Committed, Error> {
        if self.1.fetch_add(1, Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_mins(10)).await;
        }
        self.0.commit(batch, durability).await
    }

    async fn stored(&self, lanes: &[LaneId]) -> Result<Vec<Progress>, Error> {
        self.0.stored(lanes).await
    }
}

/// A source that yields nothing for twenty tries, and then ends.
struct Stalling(u32);

#[async_trait]
impl Source for Stalling {
    async fn next(&mut self) -> Result<Event, Error> {
        self.0 += 1;
        if self.0 > 20 { Ok(Event::End) } else { Err(unreachable_server()) }
    }

    async fn start(&mut self, _: &Progress) -> Result<(), Error> {
        Ok(())
    }

    async fn stop(&mut self, _: i32) -> Result<(), Error> {
        Ok(())
    }

    fn stored(&mut self, _: &[Progress]) {}
}

/// Checks `health` every second while `flow` runs. Returns how long it ran.
async fn lives<T>(health: &Health, flow: impl Future<Output = T>) -> Duration {
    let begun = tokio::time::Instant::now();
    tokio::pin!(flow);
    while tokio::time::timeout(Duration::from_secs(1), &mut flow).await.is_err() {
        assert_eq!(health.standing_still(), []);
    }
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_flow_lives_while_a_commit_takes_minutes_and_while_its_source_stalls() {
    let stop = Stop::new();
    let config = config(None);
    let health = config.health.clone();
    let source = Lists::new(lists(1, 10, 100), fastrand::Rng::with_seed(1));
    let sink = Arc::new(Slow(MemorySink::new(), AtomicU64::default()));
    let slow = Flow::new(config.clone(), source, sink).run(stop.clone());
    let lasted = lives(&health, slow).await;
    assert!(lasted >= Duration::from_mins(10), "{lasted:?}");
    let stalling = Flow::new(config, Stalling(0), Arc::new(MemorySink::new())).run(stop);
    assert!(lives(&health, stalling).await > Duration::from_mins(1));
    tokio::time::advance(Duration::from_hours(1)).await;
    assert_eq!(health.standing_still(), [], "a flow that has ended is not still");
}

#[tokio::test(start_paused = true)]
async fn a_flow_is_ready_unless_its_commits_fail_and_once_one_succeeds() {
    let stop = Stop::new();
    let config = config(None);
    let health = config.health.clone();
    let sink = Arc::new(Trouble { rivals: false, ..Trouble::new(11) });
    let source = Lists::new(lists(2, 40, 1_000), fastrand::Rng::with_seed(1));
    let flow = Flow::new(config, source, Arc::clone(&sink) as Arc<dyn Sink>).run(stop);
    tokio::pin!(flow);
    let (mut ready, mut not_ready) = (0, 0);
    while tokio::time::timeout(Duration::from_millis(2), &mut flow).await.is_err() {
        match health.lacking().as_slice() {
            [] => ready += 1,
            [trouble] => {
                assert_eq!(trouble.name, "the sink");
                not_ready += 1;
            }
            troubles => panic!("{troubles:?}"),
        }
    }
    assert!(ready > 0 && not_ready > 0, "{ready} {not_ready}");
}
