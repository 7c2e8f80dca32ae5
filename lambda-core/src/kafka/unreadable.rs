//! Messages that librdkafka cannot read: their batch is damaged, or packed in a way that it
//! does not know. It reports so without saying where, and continues behind the batch, so that
//! the partitions are read one by one to find the place.

use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;

use crate::error::Error;
use crate::kafka::config::KafkaConfig;
use crate::kafka::context::list_from;
use crate::kafka::topic::{self, Observer};
use crate::remedy;

/// How long a partition may take to deliver its next message.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

const POLL: Duration = Duration::from_millis(100);

/// Whether a code says that messages cannot be read, and no later try will read them.
pub(super) fn is_unreadable(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::BadMessage | Code::BadCompression | Code::NotImplemented | Code::MessageSizeTooLarge
    )
}

/// The error for the first of `partitions` whose next message, at or behind its position,
/// cannot be read. `None`: all can by now, or have none.
///
/// # Errors
/// `Transient` or `Fatal` when no client can be made.
pub(super) fn find(
    config: &KafkaConfig,
    partitions: &[(i32, i64)],
    mut beat: impl FnMut(),
) -> Result<Option<Error>, Error> {
    let reader = topic::observer(config)?;
    for (partition, position) in partitions {
        beat();
        let code = try_read(config.topic(), &reader, *partition, *position).map_err(cannot)?;
        if let Some(code) = code {
            let topic = config.topic();
            return Ok(Some(Error::Misconfigured {
                what: format!(
                    "the messages of partition {partition} of {topic} from offset {position} on \
                     cannot be read"
                ),
                remedy: remedy::unreadable(code).into(),
                source: Some(Box::new(KafkaError::MessageConsumption(code))),
            }));
        }
    }
    Ok(None)
}

fn cannot(error: KafkaError) -> Error {
    remedy::kafka(error, "read a partition alone")
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
            Some(Err(error)) => {
                let code = error.rdkafka_error_code().filter(|code| is_unreadable(*code));
                if code.is_some() {
                    return Ok(code);
                }
            }
            Some(Ok(_)) | None => {}
        }
    }
    Ok(None)
}
