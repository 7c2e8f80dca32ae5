//! The delivery protocol as one machine: members with the real state, batcher and
//! bisection on the sink in memory, driven by whatever can happen to them in any
//! order. After every step what is stored is compared with what the records below
//! the stored positions should have become; at the end everything must be stored
//! within a bounded number of steps. With any one of the protocol's protections
//! switched off, the same machine finds a violation.

mod database;
mod member;
mod topic;
mod world;

use std::cell::RefCell;

use lambda_core::failpoint::{Protection, without};
use proptest::test_runner::{
    Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner,
};
use proptest_state_machine::ReferenceStateMachine;

use crate::database::Tally;
use crate::world::{Group, Move, World};

/// Moves of a run.
const MOVES: usize = 90;

/// Runs with everything switched on.
const RUNS: u32 = 4_000;

/// Runs within which a missing protection is found.
const RUNS_WITHOUT: u32 = 1_500;

/// Everything that must have happened in the runs, or they prove nothing.
const REACHED: &[&str] = &[
    "inserted",
    "confirmed",
    "corrected",
    "superseded",
    "duplicate",
    "rejected",
    "landed",
    "landed while nobody waited for it",
    "refused",
    "contended",
    "temporary",
    "fenced",
    "fenced in part",
    "a lane is let go",
    "compared",
    "drained",
    "stopped with a commit that failed",
    "retried",
    "asked whether the server answers",
    "a transaction waits for a lane",
    "a backend that holds a lane is ended",
    "a backend dies",
    "a claim is replaced",
    "a claim is cancelled",
    "a claim is answered that nobody waits for",
    "a claim that was given up lands",
    "the answer to a claim is lost",
    "the answer to a commit is lost",
    "settled as stored",
    "settled as not stored",
    "settled as fenced",
    "commits are lost",
];

type Case = (Group, Vec<Move>);

/// Runs the machine from a fixed seed. Gives the least case that breaks it, if any.
fn run(runs: u32, shrinks: u32, tally: &RefCell<Tally>) -> Option<(String, Case)> {
    let config = Config {
        cases: runs,
        max_shrink_iters: shrinks,
        failure_persistence: None,
        ..Config::default()
    };
    let seed = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let cases = Group::sequential_strategy(1..MOVES);
    let broken = TestRunner::new_with_rng(config, seed).run(&cases, |(group, moves, seen)| {
        let mut world = World::new(&group);
        let played = world.play(&moves, seen.as_deref());
        for (what, times) in world.tally() {
            *tally.borrow_mut().entry(what.clone()).or_default() += times;
        }
        played.map_err(TestCaseError::fail)
    });
    match broken {
        Ok(()) => None,
        Err(TestError::Fail(reason, (group, moves, _))) => {
            Some((reason.to_string(), (group, moves)))
        }
        Err(error) => panic!("the machine could not run: {error}"),
    }
}

fn told((broken, (group, moves)): &(String, Case)) -> String {
    let moves: Vec<String> = moves.iter().map(|step| format!("  {step:?}")).collect();
    let topic: Vec<String> = group.topic.iter().map(|log| format!("  {log:?}")).collect();
    format!("{broken}\nafter\n{}\nof the topic\n{}", moves.join("\n"), topic.join("\n"))
}

#[test]
fn whatever_happens_in_whatever_order_each_record_is_stored_once() {
    let tally = RefCell::new(Tally::new());
    if let Some(broken) = run(RUNS, 20_000, &tally) {
        panic!("{}", told(&broken));
    }
    let tally = tally.into_inner();
    let moves = world::MOVES_BY_NAME.iter().map(|name| format!("move {name}"));
    let wanted: Vec<String> =
        REACHED.iter().map(|what| (*what).to_owned()).chain(moves).collect();
    let missing: Vec<&String> = wanted.iter().filter(|what| !tally.contains_key(*what)).collect();
    assert!(missing.is_empty(), "never happened: {missing:?}; of {tally:#?}");
}

#[test]
fn without_any_one_protection_the_machine_finds_what_breaks() {
    let mut harmless = Vec::new();
    for protection in Protection::ALL {
        let tally = RefCell::new(Tally::new());
        match without(protection, || run(RUNS_WITHOUT, 300, &tally)) {
            Some(broken) => println!("without {protection:?}: {}\n", told(&broken)),
            None => harmless.push(protection),
        }
    }
    assert!(harmless.is_empty(), "nothing breaks without {harmless:?}");
}
