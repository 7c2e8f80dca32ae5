//! The metrics: name, kind, unit, labels and meaning of each. Keys and descriptions derive
//! from these, so no place of recording can use a label that another one lacks.

use ::metrics::{
    Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, Unit, with_recorder,
};

/// Prometheus' type of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// Only grows while the process runs.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size, with these upper bounds.
    Histogram(&'static [f64]),
}

/// A metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Metric {
    /// Its name, which ends in its unit and, for a counter, in `_total`.
    pub(super) name: &'static str,
    /// Its type.
    pub(super) kind: Kind,
    /// The unit of the values.
    unit: &'static str,
    /// The names of its labels.
    labels: &'static [&'static str],
    /// Its meaning.
    help: &'static str,
}

/// Buckets from a single message at low load to the largest batches.
const RECORDS_BUCKETS: &[f64] =
    &[1.0, 10.0, 100.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0, 20_000.0, 50_000.0];

/// Buckets from a commit on an idle disk to one that waits for locks.
const SECONDS_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

pub(super) const BUILD: Metric = Metric {
    name: "lambda_build_info",
    kind: Kind::Gauge,
    unit: "",
    labels: &["version"],
    help: "1, with the version of the program as a label",
};

pub(super) const RECORDS: Metric = Metric {
    name: "lambda_records_total",
    kind: Kind::Counter,
    unit: "records",
    labels: &["pipeline", "outcome"],
    help: "Records that this process stored, by outcome",
};

pub(super) const BATCH: Metric = Metric {
    name: "lambda_batch_records",
    kind: Kind::Histogram(RECORDS_BUCKETS),
    unit: "records",
    labels: &["pipeline"],
    help: "Records stored by one commit; commits without records are left out",
};

pub(super) const COPY: Metric = Metric {
    name: "lambda_copy_seconds",
    kind: Kind::Histogram(SECONDS_BUCKETS),
    unit: "seconds",
    labels: &["pipeline"],
    help: "Time to copy the rows of a batch into the table",
};

pub(super) const COMMIT: Metric = Metric {
    name: "lambda_commit_seconds",
    kind: Kind::Histogram(SECONDS_BUCKETS),
    unit: "seconds",
    labels: &["pipeline"],
    help: "Time from begin to acknowledged commit of a transaction that stores records",
};

pub(super) const RETRIES: Metric = Metric {
    name: "lambda_retries_total",
    kind: Kind::Counter,
    unit: "tries",
    labels: &["kind"],
    help: "Operations that failed because of their environment and were retried",
};

pub(super) const CLAIMS: Metric = Metric {
    name: "lambda_claims_total",
    kind: Kind::Counter,
    unit: "lanes",
    labels: &["pipeline"],
    help: "Lanes claimed",
};

pub(super) const FENCES: Metric = Metric {
    name: "lambda_fences_total",
    kind: Kind::Counter,
    unit: "lanes",
    labels: &["pipeline"],
    help: "Lanes that a commit found held by another process, or rewound",
};

pub(super) const EVICTIONS: Metric = Metric {
    name: "lambda_evictions_total",
    kind: Kind::Counter,
    unit: "backends",
    labels: &["kind"],
    help: "PostgreSQL backends terminated: another loader's that held locks, or our own",
};

pub(super) const LAG: Metric = Metric {
    name: "lambda_lag_records",
    kind: Kind::Gauge,
    unit: "records",
    labels: &["pipeline", "source", "partition"],
    help: "Offsets between the stored position of a lane held here and the end of its partition",
};

pub(super) const DEAD_LETTERS: Metric = Metric {
    name: "lambda_dead_letters_open",
    kind: Kind::Gauge,
    unit: "records",
    labels: &["pipeline"],
    help: "Open dead letters of the pipeline, of all processes",
};

pub(super) const JOB_STATUS: Metric = Metric {
    name: "lambda_job_status",
    kind: Kind::Gauge,
    unit: "",
    labels: &["job_id", "status"],
    help: "1 for the current job's status, 0 for the others",
};

pub(super) const JOB_RECORDS: Metric = Metric {
    name: "lambda_job_records",
    kind: Kind::Gauge,
    unit: "records",
    labels: &["job_id"],
    help: "Records in the file of the current job",
};

pub(super) const JOB_STORED: Metric = Metric {
    name: "lambda_job_stored_records",
    kind: Kind::Gauge,
    unit: "records",
    labels: &["job_id"],
    help: "Records of the current job that are stored, by this run and earlier ones",
};

pub(super) const DELIVERED: Metric = Metric {
    name: "lambda_delivered_messages_total",
    kind: Kind::Counter,
    unit: "messages",
    labels: &["kind"],
    help: "Messages that the brokers have acknowledged, by the outcome expected of the consumer",
};

pub(super) const IN_FLIGHT: Metric = Metric {
    name: "lambda_in_flight_messages",
    kind: Kind::Gauge,
    unit: "messages",
    labels: &[],
    help: "Messages sent that no broker has acknowledged yet",
};

/// All metrics.
pub(super) const ALL: &[Metric] = &[
    BUILD,
    RECORDS,
    BATCH,
    COPY,
    COMMIT,
    RETRIES,
    CLAIMS,
    FENCES,
    EVICTIONS,
    LAG,
    DEAD_LETTERS,
    JOB_STATUS,
    JOB_RECORDS,
    JOB_STORED,
    DELIVERED,
    IN_FLIGHT,
];

static METADATA: Metadata<'static> = Metadata::new("lambda", Level::INFO, Some(module_path!()));

impl Metric {
    /// Builds the key of one series from a value for each label, in their order.
    fn key(&self, values: &[&str]) -> Key {
        debug_assert_eq!(self.labels.len(), values.len(), "{}", self.name);
        let labels = self.labels.iter().zip(values);
        let labels: Vec<Label> =
            labels.map(|(name, value)| Label::new(*name, (*value).to_owned())).collect();
        Key::from_parts(self.name, labels)
    }

    pub(super) fn counter(&self, values: &[&str]) -> Counter {
        with_recorder(|recorder| recorder.register_counter(&self.key(values), &METADATA))
    }

    pub(super) fn gauge(&self, values: &[&str]) -> Gauge {
        with_recorder(|recorder| recorder.register_gauge(&self.key(values), &METADATA))
    }

    pub(super) fn histogram(&self, values: &[&str]) -> Histogram {
        with_recorder(|recorder| recorder.register_histogram(&self.key(values), &METADATA))
    }

    pub(super) fn describe(&self, recorder: &dyn Recorder) {
        let unit = match self.unit {
            "seconds" => Some(Unit::Seconds),
            "" => None,
            _ => Some(Unit::Count),
        };
        let (name, help) = (self.name.into(), self.help.into());
        match self.kind {
            Kind::Counter => recorder.describe_counter(name, unit, help),
            Kind::Gauge => recorder.describe_gauge(name, unit, help),
            Kind::Histogram(_) => recorder.describe_histogram(name, unit, help),
        }
    }
}
