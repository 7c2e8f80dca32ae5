//! The promises of every source, kept by the one on Kafka.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use async_trait::async_trait;
use lambda_core::Kafka;
use lambda_core::delivery::batcher::Limits;
use lambda_core::health::Health;
use lambda_core::kafka::{KafkaSource, OnSourceChange, SourceOptions, StartAt};
use lambda_core::source::Source;
use lambda_core::testing::draft::SAMPLES;
use lambda_core::testing::source::{CASES, Origin};
use lambda_lab::Failure;
use lambda_lab::harness::{self, Context};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

fn main() -> ExitCode {
    harness::main(|suite| {
        for (promise, case) in CASES {
            suite.kafka(promise, async move |context| {
                case(&Topic::filled(&context).await?).await;
                Ok(())
            });
        }
    })
}

const PARTITIONS: i32 = 3;

/// A topic whose partitions hold different numbers of samples.
struct Topic {
    kafka: Kafka,
    messages: BTreeMap<i32, Vec<i64>>,
}

impl Topic {
    async fn filled(context: &Context) -> Result<Self, Failure> {
        let (bootstrap, topic) = (context.bootstrap().await?, context.topic("samples", PARTITIONS));
        let topic = topic.await?;
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &bootstrap)
            .set("enable.idempotence", "true")
            .set("max.in.flight", "1")
            .create()?;
        let count = |partition| 500 * (i64::from(partition) + 1);
        let messages: BTreeMap<i32, Vec<i64>> =
            (0..PARTITIONS).map(|partition| (partition, (0..count(partition)).collect())).collect();
        for (partition, positions) in &messages {
            for position in positions {
                let payload = format!(r#"{{"id":"{partition}-{position}","amount":1}}"#);
                let record = BaseRecord::<str, str>::to(&topic).partition(*partition);
                producer.send(record.payload(&payload)).map_err(|(error, _)| error)?;
            }
        }
        producer.flush(Duration::from_secs(30))?;
        let kafka = Kafka::new(&bootstrap, &topic).group(&format!("{topic}-group"));
        Ok(Self { kafka, messages })
    }
}

#[async_trait]
impl Origin for Topic {
    async fn open(&self) -> Box<dyn Source> {
        let options = SourceOptions {
            start: StartAt::default(),
            on_source_change: OnSourceChange::default(),
            limits: Limits { rows: 100, ..Limits::default() },
            database: "a test".into(),
        };
        let source = KafkaSource::open(self.kafka.clone(), &SAMPLES, options, &Health::default());
        Box::new(source.expect("a source"))
    }

    fn positions(&self) -> BTreeMap<i32, Vec<i64>> {
        self.messages.clone()
    }
}
