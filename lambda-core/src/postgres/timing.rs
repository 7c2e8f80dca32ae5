//! Times of the sink, on the client and on the server. Several of them are right only in a
//! certain order, which the end of this file checks when it is compiled.

use std::time::Duration;

/// Time limit of a login.
pub(crate) const LOGIN: Duration = Duration::from_secs(10);

/// Time for which the file and the server may differ while a password is replaced.
pub(crate) const PASSWORD_REPLACED: Duration = Duration::from_secs(1);

/// Time for which a login that once worked may be refused before the refusal counts: after
/// a failover a standby may not have the role, the password or the database yet.
pub(crate) const LOGIN_REFUSED: Duration = Duration::from_secs(90);

/// Time to wait for a server that does not answer.
pub(crate) const SERVER_AWAY: Duration = Duration::from_mins(1);

/// Time limit of a plain request.
pub(crate) const ANSWER: Duration = Duration::from_secs(10);

/// Time limit of a request that waits for locks.
pub(crate) const LOCKS: Duration = Duration::from_secs(30);

/// The server's limit on a wait for a lock, in requests limited by [`LOCKS`].
pub(crate) const LOCK: Duration = Duration::from_secs(20);

/// The server's limit on the time between two statements of a transaction: a process that
/// is frozen there must not keep its locks.
pub(crate) const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(10);

/// Time that a commit waits for a free connection before it reports why there is none.
pub(crate) const CHECKOUT: Duration = Duration::from_secs(5);

/// Interval at which a session that waits is looked at.
pub(crate) const LOOK: Duration = Duration::from_secs(10);

/// Time that a commit waits for other loaders before it terminates those whose transactions
/// are as old.
pub(crate) const COMMIT_BLOCKED: Duration = Duration::from_secs(30);

/// Time after which a claim, and the start of an attempt, terminates the session that holds
/// a lane, and the interval at which it looks.
pub(crate) const CLAIM_BLOCKED: Duration = Duration::from_secs(1);

/// The server's limit on a claim's wait for the lane's lock: on a busy machine too, longer
/// than the login that terminates the holder's session.
pub(crate) const CLAIM_LOCK: Duration = Duration::from_secs(5);

/// Age of a claim at which it is tried for the last time.
pub(crate) const CLAIM_LAST_TRY: Duration = Duration::from_secs(12);

/// Time for which a claim's session is kept for the next one. A rebalance grants many lanes
/// at once, and a login takes longer than a claim.
pub(crate) const CLAIM_SESSION: Duration = Duration::from_secs(2);

/// Time that finished work waits for a look in progress, so that its result is logged.
pub(crate) const LAST_LOOK: Duration = Duration::from_secs(1);

/// Time for which a transaction that no longer blocks us is remembered.
pub(crate) const BLOCKER_REMEMBERED: Duration = Duration::from_mins(2);

/// Duration of a job's lease, by the database's clock.
pub(crate) const LEASE: Duration = Duration::from_secs(15);

/// Interval between renewals of a lease.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(5);

/// The server's limit on an operator's wait for a dead letter's lock.
pub(crate) const DEAD_LETTER_LOCK: Duration = Duration::from_secs(5);

/// Time limit of a request about many dead letters: it may wait for a replay.
pub(crate) const DEAD_LETTERS: Duration = Duration::from_mins(1);

/// Time limit of one transaction of a replay, after which it is tried with fewer dead
/// letters.
pub(crate) const REPLAY: Duration = Duration::from_secs(15);

/// The server's limit on such a transaction: a replay may be frozen.
pub(crate) const REPLAY_FROZEN: Duration = Duration::from_secs(20);

/// The server's limit on a migration's wait for a table: all loaders that come later wait
/// after it.
pub(crate) const MIGRATION_LOCK: Duration = Duration::from_secs(3);

/// Pause for loaders before the next attempt of a migration.
pub(crate) const MIGRATION_PAUSE: Duration = Duration::from_secs(5);

/// The server's limit on the time between two requests of a setup, which may hold the lock
/// of migrations.
pub(crate) const SETUP_IDLE: Duration = Duration::from_secs(30);

/// Interval between checks that the database answers.
pub(crate) const HEALTH: Duration = Duration::from_secs(2);

/// Interval between counts of open dead letters: if there are many, a count takes a while.
pub(crate) const COUNT: Duration = Duration::from_secs(30);

/// The server's limit on such a count: left running, it would delay the next check.
pub(crate) const COUNT_STATEMENT: Duration = Duration::from_secs(5);

/// The statement that sets a limit of the server's.
pub(crate) fn set(setting: &str, time: Duration) -> String {
    format!("set {setting} = {}", time.as_millis())
}

/// Settings of a session whose writes are durable before they count (rule R5,
/// docs/protocol.md). It waits at most `lock` for a lock, and no other limit of the role ends
/// that wait sooner. A process that is frozen between two statements holds no locks for long.
pub(crate) fn durable_session(lock: Duration) -> String {
    format!(
        "set synchronous_commit = on; {}; {}; set statement_timeout = 0",
        set("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION),
        set("lock_timeout", lock),
    )
}

const fn shorter(one: Duration, other: Duration) -> bool {
    one.as_millis() < other.as_millis()
}

// A load retries a server for less time than a refused login is taken for a failover's.
const _: () = assert!(shorter(SERVER_AWAY, LOGIN_REFUSED));
// The server gives up a lock before the client gives up the request, and so says why.
const _: () = assert!(shorter(LOCK, LOCKS));
const _: () = assert!(shorter(DEAD_LETTER_LOCK, REPLAY) && shorter(REPLAY, DEAD_LETTERS));
const _: () = assert!(shorter(COUNT_STATEMENT, ANSWER));
// The holder of a lane is terminated before the claim's lock times out.
const _: () = assert!(shorter(CLAIM_BLOCKED, CLAIM_LOCK));
// The last attempt of a claim may wait for two locks, and ends within the request's limit.
const _: () = assert!(shorter(CLAIM_LAST_TRY.saturating_add(CLAIM_LOCK.saturating_mul(2)), LOCKS));
// A claim and a commit outwait one attempt of a migration.
const _: () = assert!(shorter(MIGRATION_LOCK, CLAIM_LOCK) && shorter(CLAIM_LOCK, COMMIT_BLOCKED));
// A blocked commit is looked at before its blockers are due, and these are remembered.
const _: () = assert!(shorter(LOOK, COMMIT_BLOCKED));
const _: () = assert!(shorter(COMMIT_BLOCKED, BLOCKER_REMEMBERED));
// One renewal may be missed.
const _: () = assert!(shorter(HEARTBEAT.saturating_mul(2), LEASE));
// The client gives up a replay's transaction before the server ends it.
const _: () = assert!(shorter(REPLAY, REPLAY_FROZEN));
