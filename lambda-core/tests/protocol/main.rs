//! The delivery protocol as one machine: members with the real state, batcher and bisection
//! on the sink in memory, driven by random events in any order. After every step, what is
//! stored is compared with what the records before the stored positions should have become.
//! At the end everything must be stored within a bounded number of steps. With any one
//! protection of the protocol switched off, the same machine finds a violation.

mod database;
mod member;
mod source;
mod topic;
mod world;

use std::cell::RefCell;
use std::fmt;

use lambda_core::failpoint::{Protection, without};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use proptest_state_machine::ReferenceStateMachine;

use crate::database::{Checked, Tally};
use crate::world::{Group, Move, World};

/// Moves of a run.
const MOVES: usize = 90;

/// Runs from each seed: with every protection all of them pass, without any one of them
/// some run fails.
const RUNS: u32 = 2_500;
const SEEDS: [u8; 3] = [7, 8, 9];

/// Events that the runs must have reached, or they prove nothing.
const REACHED: &[&str] = &[
    "inserted",
    "confirmed",
    "corrected",
    "superseded",
    "duplicate",
    "rejected",
    "landed",
    "landed after its owner gave up",
    "refused",
    "contended",
    "temporary",
    "slow",
    "fenced",
    "fenced in part",
    "a lane is released",
    "compared",
    "drained",
    "ended",
    "a stop that took too long is given up",
    "retried",
    "retried in a stop",
    "asked whether the server answers",
    "a transaction waits for a lane",
    "a backend that holds a lane is ended",
    "a backend dies",
    "a claim is replaced",
    "a claim is cancelled",
    "a claim is answered after it was given up",
    "a claim that was given up lands",
    "the answer to a claim is lost",
    "the answer to a commit is lost",
    "settled as stored",
    "settled as not stored",
    "settled as fenced",
    "commits are lost",
];

/// A run that violates an invariant, and that invariant.
struct Broken {
    invariant: String,
    group: Group,
    moves: Vec<Move>,
}

/// Plays a run on its own world.
fn play(group: &Group, moves: &[Move], tally: &mut Tally) -> Checked {
    let mut world = World::new(group);
    let played = world.play(moves);
    for (what, times) in world.tally() {
        *tally.entry(what.clone()).or_default() += times;
    }
    played
}

/// Runs the machine from the fixed seeds until an invariant is violated, and minimizes that run.
fn run(tally: &RefCell<Tally>) -> Option<Broken> {
    SEEDS.into_iter().find_map(|seed| run_from(seed, tally)).map(Broken::smaller)
}

fn run_from(seed: u8, tally: &RefCell<Tally>) -> Option<Broken> {
    // Minimized below: moves are left out one by one.
    let (failure_persistence, max_shrink_iters) = (None, 0);
    let config = Config { cases: RUNS, max_shrink_iters, failure_persistence, ..Config::default() };
    let seed = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let runs = Group::sequential_strategy(1..MOVES);
    let broken = TestRunner::new_with_rng(config, seed).run(&runs, |(group, moves, _)| {
        play(&group, &moves, &mut tally.borrow_mut()).map_err(TestCaseError::fail)
    });
    match broken {
        Ok(()) => None,
        Err(TestError::Fail(invariant, (group, moves, _))) => {
            Some(Broken { invariant: invariant.to_string(), group, moves })
        }
        Err(error) => panic!("the machine could not run: {error}"),
    }
}

impl Broken {
    /// A run that still fails and has no superfluous move, nor a superfluous record at a
    /// partition's end.
    fn smaller(mut self) -> Self {
        let size = |broken: &Self| (broken.moves.len(), broken.group.records());
        loop {
            let before = size(&self);
            for index in (0..self.moves.len()).rev() {
                let mut moves = self.moves.clone();
                moves.remove(index);
                self.try_as(self.group.clone(), moves);
            }
            for partition in 0..self.group.topic.len() {
                let mut group = self.group.clone();
                group.topic[partition].shorten();
                self.try_as(group, self.moves.clone());
            }
            if size(&self) == before {
                return self;
            }
        }
    }

    fn try_as(&mut self, group: Group, moves: Vec<Move>) {
        if let Err(invariant) = play(&group, &moves, &mut Tally::new()) {
            *self = Self { invariant, group, moves };
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.invariant)?;
        for (partition, log) in self.group.topic.iter().enumerate() {
            writeln!(f, "  partition {partition} has {log:?}")?;
        }
        self.moves.iter().try_for_each(|step| writeln!(f, "  {step:?}"))
    }
}

#[test]
fn each_record_is_stored_once_whatever_happens_in_whatever_order() {
    let tally = RefCell::new(Tally::new());
    if let Some(broken) = run(&tally) {
        panic!("{broken}");
    }
    let tally = tally.into_inner();
    let moves = world::MOVES_BY_NAME.iter().map(|name| format!("move {name}"));
    let wanted: Vec<String> = REACHED.iter().map(|what| (*what).to_owned()).chain(moves).collect();
    let missing: Vec<&String> = wanted.iter().filter(|what| !tally.contains_key(*what)).collect();
    assert!(missing.is_empty(), "never happened: {missing:?}; of {tally:#?}");
}

#[test]
#[expect(clippy::print_stdout, reason = "captured by the harness unless it is asked for")]
fn without_any_one_protection_the_machine_finds_a_violation() {
    let (mut found, mut harmless) = (Vec::new(), Vec::new());
    for protection in Protection::ALL {
        let tally = RefCell::new(Tally::new());
        match without(protection, || run(&tally)) {
            Some(broken) => found.push(format!("without {protection:?}: {broken}")),
            None => harmless.push(protection),
        }
    }
    println!("{}", found.join("\n"));
    assert!(harmless.is_empty(), "nothing breaks without {harmless:?}");
}
