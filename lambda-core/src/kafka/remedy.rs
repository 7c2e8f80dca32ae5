//! Meaning of the codes of librdkafka and the brokers, and what to do about them.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::error::{Error, Kind, Server, Verdict, verdict};

/// Advice for when no broker answers.
pub(crate) const REACH_BROKERS: &str =
    "check KAFKA_BOOTSTRAP_SERVERS and the network to the brokers";

/// Meaning of a code of librdkafka or of a broker, for a reader or a producer.
///
/// Codes not known to need a person are transient: brokers come and go, and a client
/// that gives up is of no use.
pub(crate) fn of_code(code: RDKafkaErrorCode) -> Verdict {
    use Kind::{Data, Fatal, Transient};
    use RDKafkaErrorCode as Code;
    match code {
        Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::NoOffset => verdict(
            Fatal,
            "the topic no longer holds the next message to read: it was recreated, or messages \
             expired unread; check the topic's retention before you start again",
        ),
        Code::Authentication | Code::SaslAuthenticationFailed | Code::IllegalSASLState => {
            verdict(Fatal, "check sasl.username and sasl.password in KAFKA_CONFIG")
        }
        Code::UnsupportedSASLMechanism => {
            verdict(Fatal, "set sasl.mechanism in KAFKA_CONFIG to one that the brokers offer")
        }
        Code::TopicAuthorizationFailed => {
            verdict(Fatal, "grant this user Read (for a producer Write) and Describe on the topic")
        }
        Code::GroupAuthorizationFailed => {
            verdict(Fatal, "grant this user Read on the consumer group")
        }
        Code::ClusterAuthorizationFailed => {
            verdict(Fatal, "grant this user IdempotentWrite on the cluster")
        }
        Code::InconsistentGroupProtocol => verdict(
            Fatal,
            "another member of this consumer group uses another assignor: stop it, or use \
             another KAFKA_GROUP_ID",
        ),
        Code::FencedInstanceId => verdict(
            Fatal,
            "another member of this consumer group has the same group.instance.id: give each \
             its own in KAFKA_CONFIG (the pod's name), or leave it out",
        ),
        Code::UnreleasedInstanceId => verdict(
            Transient,
            "another member of this consumer group has the same group.instance.id: stop it, \
             or give each its own in KAFKA_CONFIG (the pod's name)",
        ),
        Code::InvalidTopic | Code::InvalidGroupId | Code::InvalidSessionTimeout => {
            verdict(Fatal, "check KAFKA_TOPIC, KAFKA_GROUP_ID and session.timeout.ms")
        }
        Code::UnsupportedVersion | Code::UnsupportedFeature | Code::UnsupportedAssignor => {
            verdict(Fatal, "the brokers are too old for a setting in KAFKA_CONFIG")
        }
        Code::MessageSizeTooLarge | Code::InvalidRecord | Code::InvalidMessageSize => {
            verdict(Data, "the brokers refuse the message: compare message.max.bytes")
        }
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
            verdict(Transient, "create the topic, or check KAFKA_TOPIC")
        }
        // It may concern one broker of several, whose certificate is about to be
        // replaced: the client continues with the others.
        Code::SSL => verdict(
            Transient,
            "set ssl.ca.location in KAFKA_CONFIG to the authority that signed the brokers' \
             certificates, and KAFKA_BOOTSTRAP_SERVERS to names in these",
        ),
        Code::Resolve
        | Code::AllBrokersDown
        | Code::BrokerTransportFailure
        | Code::OperationTimedOut => verdict(Transient, REACH_BROKERS),
        _ => verdict(Transient, "look at the brokers' logs"),
    }
}

/// Whether librdkafka would retry without end what only a person can fix.
pub(crate) fn needs_a_person(code: RDKafkaErrorCode) -> bool {
    of_code(code).kind == Kind::Fatal
}

/// The error for brokers at `bootstrap` with which the client did not agree on TLS.
/// librdkafka's `reason` does not distinguish an unknown authority from a certificate
/// for another host.
pub(crate) fn distrusted(bootstrap: &str, reason: String) -> Error {
    Error::Misconfigured {
        what: format!("could not verify a certificate of the brokers at {bootstrap}"),
        remedy: of_code(RDKafkaErrorCode::SSL).remedy.into(),
        source: Some(reason.into()),
    }
}

/// Converts an error met while doing `what` ("read the topic's settings in Kafka").
pub(crate) fn explain(error: KafkaError, what: &'static str) -> Error {
    use RDKafkaErrorCode as Code;
    let code = match &error {
        // The binding's own accessor returns none for these.
        KafkaError::AdminOp(code) => Some(*code),
        error => error.rdkafka_error_code(),
    };
    let Verdict { kind, remedy } =
        code.map_or(verdict(Kind::Transient, "look at the brokers' logs"), of_code);
    match (kind, code) {
        (Kind::Fatal | Kind::Data, _) => Error::Misconfigured {
            what: format!("could not {what}"),
            remedy: remedy.into(),
            source: Some(Box::new(error)),
        },
        (
            _,
            Some(
                Code::Resolve
                | Code::AllBrokersDown
                | Code::BrokerTransportFailure
                | Code::OperationTimedOut,
            ),
        ) => {
            let source = format!("{error}; {remedy}").into();
            Error::Unreachable { server: Server::Kafka, source }
        }
        _ => Error::Temporary { server: Server::Kafka, what, remedy, source: Box::new(error) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_administrative_request_that_times_out_means_unreachable_brokers() {
        let timed_out = KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut);
        assert_eq!(explain(timed_out, "change the topic").exit_code(), 69);
        let forbidden = KafkaError::AdminOp(RDKafkaErrorCode::TopicAuthorizationFailed);
        assert_eq!(explain(forbidden, "change the topic").exit_code(), 78);
    }
}
