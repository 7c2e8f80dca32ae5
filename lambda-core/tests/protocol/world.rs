//! The group, its members, and the events that can happen to them.

use std::fmt::Write as _;

use proptest::prelude::*;
use proptest::sample::select;
use proptest_state_machine::ReferenceStateMachine;

use crate::database::{Checked, Database, Tally};
use crate::member::{Member, Trouble};
use crate::source::News;
use crate::topic::{self, Content, Log, PARTITIONS};

const MEMBERS: usize = 3;

/// Rounds within which everything must be stored after the last fault.
const ROUNDS_MAX: usize = 60;

/// Most claims after the last fault: each partition's first one, and one more for each lane
/// that was taken by a process without being granted it, or that a crash had
/// rewound.
const CLAIMS_MAX: usize = 4 * PARTITIONS as usize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Up,
    Frozen,
    Stopping,
    Down,
}

/// State of the group's coordinator and the topic: enough to decide which moves are
/// possible.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) topic: Vec<Log>,
    /// Number of offsets before the requested one that a broker returns when reading
    /// starts.
    pub(crate) before: i64,
    pub(crate) members: [Status; MEMBERS],
    pub(crate) owners: [Option<usize>; PARTITIONS as usize],
}

/// An event. An event of a member does nothing if the member has nothing to apply it
/// to.
#[derive(Debug, Clone)]
pub(crate) enum Move {
    Assign {
        partition: i32,
        to: usize,
    },
    Crash(usize),
    Freeze(usize),
    Wake(usize),
    Stop(usize),
    /// It is to end at the current end of the topic.
    End(usize),
    Start(usize),
    /// The next step without a fault.
    Advance {
        member: usize,
        count: usize,
    },
    Poll {
        member: usize,
        count: usize,
    },
    Take(usize),
    Claim {
        member: usize,
        partition: i32,
        lost: bool,
    },
    Answer(usize),
    Begin {
        member: usize,
        end: bool,
    },
    Land(usize),
    Hear {
        member: usize,
        lost: bool,
    },
    Fail {
        member: usize,
        trouble: Trouble,
        times: usize,
    },
    Settle(usize),
    Retry {
        member: usize,
        answers: bool,
    },
    Check(usize),
    /// Any transaction lands, even if its owner no longer waits.
    LateLand(usize),
    BackendDies(usize),
    GhostClaim(usize),
    DatabaseCrash {
        back: usize,
    },
    Job(Vec<Content>),
}

pub(crate) const MOVES_BY_NAME: &[&str] = &[
    "Assign",
    "Crash",
    "Freeze",
    "Wake",
    "Stop",
    "End",
    "Start",
    "Advance",
    "Poll",
    "Take",
    "Claim",
    "Answer",
    "Begin",
    "Land",
    "Hear",
    "Fail",
    "Settle",
    "Retry",
    "Check",
    "LateLand",
    "BackendDies",
    "GhostClaim",
    "DatabaseCrash",
    "Job",
];

impl Move {
    fn name(&self) -> String {
        let mut name = String::new();
        write!(name, "{self:?}").ok();
        name.split(['(', ' ']).next().unwrap_or_default().to_owned()
    }

    /// The member of a move, and the status that it must have.
    fn needs(&self) -> Option<(usize, &'static [Status])> {
        use Status::{Down, Frozen, Stopping, Up};
        Some(match self {
            Self::Assign { to, .. } => (*to, &[Up, Frozen]),
            Self::Crash(member) => (*member, &[Up, Frozen, Stopping]),
            Self::Wake(member) => (*member, &[Frozen]),
            Self::Freeze(member) | Self::Stop(member) | Self::End(member) => (*member, &[Up]),
            Self::Start(member) => (*member, &[Down, Stopping]),
            Self::Advance { member, .. }
            | Self::Poll { member, .. }
            | Self::Take(member)
            | Self::Claim { member, .. }
            | Self::Answer(member)
            | Self::Begin { member, .. }
            | Self::Land(member)
            | Self::Hear { member, .. }
            | Self::Fail { member, .. }
            | Self::Settle(member)
            | Self::Retry { member, .. }
            | Self::Check(member) => (*member, &[Up, Stopping]),
            Self::LateLand(_)
            | Self::BackendDies(_)
            | Self::GhostClaim(_)
            | Self::DatabaseCrash { .. }
            | Self::Job(_) => return None,
        })
    }
}

impl ReferenceStateMachine for Group {
    type State = Self;
    type Transition = Move;

    fn init_state() -> BoxedStrategy<Self> {
        let topic = prop::collection::vec(topic::log(), PARTITIONS as usize);
        let group = |(topic, before)| Self {
            topic,
            before,
            members: [Status::Up; MEMBERS],
            // Two for one member, one for another, nothing for the third.
            owners: [Some(0), Some(0), Some(1)],
        };
        (topic, 0..3_i64).prop_map(group).boxed()
    }

    fn transitions(group: &Self) -> BoxedStrategy<Move> {
        let members = |wanted: &[Status]| -> Vec<usize> {
            (0..MEMBERS).filter(|member| wanted.contains(&group.members[*member])).collect()
        };
        let running = members(&[Status::Up, Status::Stopping]);
        let mut moves = vec![
            (4, (0..4_usize).prop_map(Move::LateLand).boxed()),
            (1, (0..4_usize).prop_map(Move::BackendDies).boxed()),
            (1, (0..4_usize).prop_map(Move::GhostClaim).boxed()),
            (2, (0..4_usize).prop_map(|back| Move::DatabaseCrash { back }).boxed()),
            (1, prop::collection::vec(job_content(), 1..4).prop_map(Move::Job).boxed()),
        ];
        let mut each = |weight: u32, of: Vec<usize>, make: fn(usize) -> BoxedStrategy<Move>| {
            if !of.is_empty() {
                moves.push((weight, select(of).prop_flat_map(make).boxed()));
            }
        };
        each(6, members(&[Status::Up]), |to| {
            (0..PARTITIONS).prop_map(move |partition| Move::Assign { partition, to }).boxed()
        });
        each(1, members(&[Status::Up, Status::Frozen]), |m| Just(Move::Crash(m)).boxed());
        each(2, members(&[Status::Up]), |m| Just(Move::Freeze(m)).boxed());
        each(3, members(&[Status::Frozen]), |m| Just(Move::Wake(m)).boxed());
        each(1, members(&[Status::Up]), |m| Just(Move::Stop(m)).boxed());
        each(1, members(&[Status::Up]), |m| Just(Move::End(m)).boxed());
        each(3, members(&[Status::Down, Status::Stopping]), |m| Just(Move::Start(m)).boxed());
        each(60, running, nudge);
        prop::strategy::Union::new_weighted(moves).boxed()
    }

    fn apply(mut group: Self, step: &Move) -> Self {
        match step {
            Move::Assign { partition, to } => group.owners[*partition as usize] = Some(*to),
            Move::Crash(member) => group.leave(*member, Status::Down),
            Move::Stop(member) | Move::End(member) => group.leave(*member, Status::Stopping),
            Move::Freeze(member) => group.members[*member] = Status::Frozen,
            Move::Wake(member) | Move::Start(member) => group.members[*member] = Status::Up,
            _ => {}
        }
        group
    }

    fn preconditions(group: &Self, step: &Move) -> bool {
        step.needs().is_none_or(|(member, wanted)| wanted.contains(&group.members[member]))
    }
}

impl Group {
    /// Records of all partitions.
    pub(crate) fn records(&self) -> usize {
        self.topic.iter().map(|log| log.records.len()).sum()
    }

    fn leave(&mut self, member: usize, status: Status) {
        self.members[member] = status;
        for owner in self.owners.iter_mut().filter(|owner| **owner == Some(member)) {
            *owner = None;
        }
    }
}

fn job_content() -> impl Strategy<Value = Content> {
    prop_oneof![
        6 => (0..5_u8, 0..2_i64).prop_map(|(id, amount)| Content::Row { id, amount }),
        1 => Just(Content::Garbage),
    ]
}

/// Runs a step of a running member.
fn nudge(member: usize) -> BoxedStrategy<Move> {
    prop_oneof![
        24 => (1..4_usize).prop_map(move |count| Move::Advance { member, count }),
        3 => (1..4_usize).prop_map(move |count| Move::Poll { member, count }),
        2 => Just(Move::Take(member)),
        2 => (0..PARTITIONS, any::<bool>())
            .prop_map(move |(partition, lost)| Move::Claim { member, partition, lost }),
        1 => Just(Move::Answer(member)),
        2 => any::<bool>().prop_map(move |end| Move::Begin { member, end }),
        1 => Just(Move::Land(member)),
        6 => any::<bool>().prop_map(move |lost| Move::Hear { member, lost }),
        2 => (select(vec![Trouble::Contended, Trouble::Temporary, Trouble::Slow]), 1..4_usize)
            .prop_map(move |(trouble, times)| Move::Fail { member, trouble, times }),
        1 => Just(Move::Settle(member)),
        2 => any::<bool>().prop_map(move |answers| Move::Retry { member, answers }),
        1 => Just(Move::Check(member)),
    ]
    .boxed()
}

pub(crate) struct World {
    database: Database,
    members: Vec<Member>,
    /// The coordinator's view, for which the moves were generated.
    group: Group,
    /// The last member that was assigned each partition.
    holders: [Option<usize>; PARTITIONS as usize],
}

impl World {
    pub(crate) fn new(group: &Group) -> Self {
        let mut database = Database::new(group.topic.clone(), group.before);
        let mut members: Vec<Member> = (0..MEMBERS).map(|_| Member::new(&mut database)).collect();
        for (partition, owner) in (0..PARTITIONS).zip(group.owners) {
            if let Some(owner) = owner {
                members[owner].hear_of(News::Granted(partition));
            }
        }
        Self { database, members, group: group.clone(), holders: group.owners }
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.database.tally
    }

    /// Plays the moves, then lets everything end without further
    /// faults.
    pub(crate) fn play(&mut self, moves: &[Move]) -> Checked {
        for step in moves {
            if !Group::preconditions(&self.group, step) {
                continue;
            }
            self.database.note(format!("move {}", step.name()));
            self.act(step)?;
            self.group = Group::apply(self.group.clone(), step);
        }
        self.come_to_an_end()
    }

    fn act(&mut self, step: &Move) -> Checked {
        let Self { database, members, .. } = self;
        match step {
            Move::Assign { partition, to } => {
                self.assign(*partition, *to);
                Ok(())
            }
            Move::Crash(member) | Move::Start(member) => {
                self.restart(*member);
                Ok(())
            }
            Move::Freeze(_) | Move::Wake(_) => Ok(()),
            Move::Stop(member) => members[*member].stop(database),
            Move::End(member) => {
                members[*member].end();
                Ok(())
            }
            Move::Advance { member, count } => members[*member].advance(database, *count),
            Move::Poll { member, count } => {
                members[*member].poll(database, *count);
                Ok(())
            }
            Move::Take(member) => members[*member].take(database),
            Move::Claim { member, partition, lost } => {
                members[*member].claim(database, *partition, *lost)
            }
            Move::Answer(member) => members[*member].answer(database),
            Move::Begin { member, end } => {
                members[*member].begin(database, *end);
                Ok(())
            }
            Move::Land(member) => members[*member].land(database),
            Move::Hear { member, lost } => members[*member].hear(database, *lost),
            Move::Fail { member, trouble, times } => {
                members[*member].fail(database, *trouble, *times)
            }
            Move::Settle(member) => members[*member].settle(database),
            Move::Retry { member, answers } => members[*member].retry(database, *answers),
            Move::Check(member) => members[*member].check(database),
            Move::LateLand(index) => database.land_any(*index),
            Move::BackendDies(index) => {
                database.end_any(*index);
                Ok(())
            }
            Move::GhostClaim(index) => database.ghost_claim(*index),
            Move::DatabaseCrash { back } => database.crash(*back),
            Move::Job(contents) => database.job(contents),
        }
    }

    fn assign(&mut self, partition: i32, to: usize) {
        self.group.owners[partition as usize] = Some(to);
        let former = self.holders[partition as usize].replace(to);
        if former == Some(to) {
            return;
        }
        if let Some(former) = former {
            self.members[former].hear_of(News::Revoked(partition));
        }
        self.members[to].hear_of(News::Granted(partition));
    }

    /// Replaces a process by a new one.
    fn restart(&mut self, member: usize) {
        self.members[member].crash(&mut self.database);
        for holder in self.holders.iter_mut().filter(|holder| **holder == Some(member)) {
            *holder = None;
        }
    }

    /// Lets a member do everything it can, once.
    fn turn(&mut self, member: usize, count: usize) -> Checked {
        let (database, member) = (&mut self.database, &mut self.members[member]);
        member.poll(database, count);
        member.take(database)?;
        for partition in 0..PARTITIONS {
            member.claim(database, partition, false)?;
        }
        for _ in 0..PARTITIONS {
            member.answer(database)?;
        }
        member.settle(database)?;
        member.begin(database, true);
        member.land(database)?;
        member.hear(database, false)?;
        member.retry(database, true)
    }

    /// Without further faults: within bounded steps everything is stored, and a stop makes it
    /// durable (invariant 7).
    fn come_to_an_end(&mut self) -> Checked {
        let statuses = self.group.members;
        let leaving = |member: &usize| statuses[*member] == Status::Stopping;
        self.run_until(|world| {
            (0..MEMBERS).filter(leaving).all(|member| world.members[member].is_finished())
        })?;
        for (member, status) in statuses.into_iter().enumerate() {
            if matches!(status, Status::Stopping | Status::Down) {
                self.restart(member);
            }
        }
        for partition in 0..PARTITIONS {
            if self.holders[partition as usize].is_none() {
                self.assign(partition, partition as usize % MEMBERS);
            }
        }
        let claims = self.database.claims;
        self.run_until(|world| {
            world.database.everything_is_stored() && world.members.iter().all(Member::is_idle)
        })?;
        let claims = self.database.claims - claims;
        if claims > CLAIMS_MAX {
            return Err(format!("{claims} claims were made before all was quiet"));
        }
        for (index, member) in self.members.iter_mut().enumerate() {
            if index == 0 {
                member.end();
            } else {
                member.stop(&mut self.database)?;
            }
        }
        self.run_until(|world| world.members.iter().all(Member::is_finished))
    }

    fn run_until(&mut self, done: impl Fn(&Self) -> bool) -> Checked {
        for round in 0..ROUNDS_MAX {
            if done(self) {
                return Ok(());
            }
            for member in 0..MEMBERS {
                // An idle flow checks only every 30 seconds.
                if round % 5 == 4 && self.members[member].is_idle() {
                    self.members[member].check(&mut self.database)?;
                }
                self.turn(member, 100)?;
            }
        }
        let members: Vec<String> = self.members.iter().map(Member::doing).collect();
        let lanes: Vec<_> = (0..PARTITIONS)
            .map(|partition| self.database.of_partition(partition).map(|lane| lane.position))
            .collect();
        Err(format!("stuck after {ROUNDS_MAX} rounds: stored {lanes:?}, {}", members.join(", ")))
    }
}
