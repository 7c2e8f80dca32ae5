//! Messages that librdkafka cannot read: their batch is damaged, larger than the limit, or in
//! a format that librdkafka does not know. It reports that without a place and continues behind
//! the batch; reading the partitions one by one finds the place.

use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;

use crate::delivery::batcher::Received;
use crate::error::Error;
use crate::kafka::config::Kafka;
use crate::kafka::context::list_from;
use crate::kafka::remedy;
use crate::kafka::topic::{self, Observer};

/// How long a partition may take to deliver its next message.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// The setting that bounds a response of a broker, and a batch when it is uncompressed.
const RECEIVE_BYTES_MAX: &str = "receive.message.max.bytes";

const POLL: Duration = Duration::from_millis(100);

/// Whether a code says that messages cannot be read, and no later try will read them.
pub(super) fn is_unreadable(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::BadMessage | Code::BadCompression | Code::NotImplemented | Code::MessageSizeTooLarge
    )
}

/// The error for the first of these partitions whose next message, at or after the offset,
/// cannot be read. `None`: all can be read by now, or have no message there.
///
/// # Errors
/// `Transient` or `Fatal` when no client can be made.
pub(super) fn find(
    config: &Kafka,
    offsets: &[(i32, i64)],
    mut beat: impl FnMut(),
) -> Result<Option<Error>, Error> {
    let mut reader = topic::observer(config)?;
    for (partition, position) in offsets {
        beat();
        if try_read(config.topic(), &reader, *partition, *position).map_err(cannot)?.is_none() {
            continue;
        }
        // That may have been about what the reader prefetched of the partition before.
        reader = topic::observer(config)?;
        let code = try_read(config.topic(), &reader, *partition, *position).map_err(cannot)?;
        if let Some(code) = code {
            let topic = config.topic();
            return Ok(Some(Error::Misconfigured {
                what: format!(
                    "the messages of partition {partition} of {topic} from offset {position} on \
                     cannot be read"
                ),
                remedy: what_to_do(config, code, reader.client().context().failure()),
                source: Some(Box::new(KafkaError::MessageConsumption(code))),
            }));
        }
    }
    Ok(None)
}

fn raise_limit(config: &Kafka) -> String {
    format!(
        "raise {RECEIVE_BYTES_MAX} (now {}) in KAFKA_CONFIG, and the memory limit with it, as \
         docs/operating.md says",
        config.receive_bytes_max()
    )
}

/// Advice about messages that cannot be read. librdkafka has the same code for a damaged
/// response and for one that is too large; only the `failure` of the connection names the
/// latter.
fn what_to_do(config: &Kafka, code: RDKafkaErrorCode, failure: Option<String>) -> String {
    use RDKafkaErrorCode as Code;
    let raise = raise_limit(config);
    let damaged = "a broker's disk damaged them: let an undamaged replica lead the \
                   partition; or remove them with kafka-delete-records, then start with \
                   --on-source-change restart";
    let too_large = failure.filter(|failure| failure.contains(RECEIVE_BYTES_MAX));
    match (code, too_large) {
        (_, Some(failure)) => format!("{raise}: {failure}"),
        (Code::MessageSizeTooLarge, _) => raise,
        (Code::NotImplemented, _) => {
            "use a version of this program that knows the messages' format or compression".into()
        }
        // librdkafka has the same code for a batch that exceeds the limit when uncompressed.
        (Code::BadCompression, _) => {
            format!(
                "if batches of this topic can be that large uncompressed, {raise}; if not, {damaged}"
            )
        }
        _ => damaged.into(),
    }
}

/// The error for a message that was compressed to less than the limit.
pub(super) fn too_large(config: &Kafka, message: &Received<'_>, bytes: u64) -> Error {
    Error::misconfigured(
        format!(
            "the message of partition {} of {} at offset {} has {bytes} bytes",
            message.partition,
            config.topic(),
            message.position
        ),
        raise_limit(config),
    )
}

/// The error for messages that repeatedly could not be read, although each partition could be
/// read alone.
pub(super) fn unfound(config: &Kafka) -> Error {
    Error::misconfigured(
        format!("messages of {} cannot be read", config.topic()),
        format!(
            "each partition can be read alone; if their batches are large, {}; if not, look at \
             the brokers' logs",
            raise_limit(config)
        ),
    )
}

fn cannot(error: KafkaError) -> Error {
    remedy::explain(error, "read a partition alone")
}

/// Why the next message of a partition cannot be read.
fn try_read(
    topic: &str,
    reader: &Observer,
    partition: i32,
    position: i64,
) -> Result<Option<RDKafkaErrorCode>, KafkaError> {
    reader.assign(&list_from(topic, &[(partition, position)])?)?;
    let begun = Instant::now();
    while begun.elapsed() < FETCH_TIMEOUT {
        match reader.poll(POLL) {
            Some(Ok(message)) if message.partition() == partition => return Ok(None),
            Some(Err(KafkaError::PartitionEOF(ended))) if ended == partition => return Ok(None),
            Some(Err(error)) => match error.rdkafka_error_code() {
                Some(code) if is_unreadable(code) => return Ok(Some(code)),
                // The partition does not hold this offset.
                Some(RDKafkaErrorCode::AutoOffsetReset) => return Ok(None),
                _ => {}
            },
            Some(Ok(_)) | None => {}
        }
    }
    Ok(None)
}
