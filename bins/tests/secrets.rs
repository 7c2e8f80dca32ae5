//! Secrets stay secret: searches for planted passwords and values of records in everything
//! that the real binaries and the database write, at the most verbose settings.

mod support;

use std::fmt::Debug;
use std::fs;
use std::process::ExitCode;

use clap::Parser;
use lambda_bins::args::{DatabaseArgs, KafkaArgs};
use lambda_core::kafka::Kafka;
use lambda_core::postgres::Postgres;
use lambda_core::postgres::schema::roles::{Access, Role};
use lambda_core::transaction;
use lambda_lab::Failure;
use lambda_lab::harness::Context;
use lambda_lab::processes::{Ended, Process, Program, Signal};
use lambda_lab::servers::OwnPostgres;
use lambda_stream::consume;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use support::{Bench, DEADLINE};

/// Planted secrets, each in the place that its name says. With characters that a URL must encode.
const IN_URL: &str = "Plant/Url+4711";
const IN_VARIABLE: &str = "Plant Variable?4712";
const IN_FILE: &str = "Plant'File&4713";
const OF_LOADER: &str = "Plant:Loader=4714";
const OF_READER: &str = "Plant%Reader#4715";
const OF_SASL: &str = "Plant;Sasl@4716";
const OF_KEY: &str = "Plant!Key~4717";
const SECRETS: [&str; 7] = [IN_URL, IN_VARIABLE, IN_FILE, OF_LOADER, OF_READER, OF_SASL, OF_KEY];

/// Not a secret: finding it shows that secrets would be found.
const USER: &str = "planted_user";

/// Value in every field of every record that can hold it.
const VALUE: &str = "Value4718";

const SAMPLE: &str = "../k8s/base/batch/sample/financial_transactions.csv";

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        suite.deadline(180);
        suite.plain("what is searched for is found in each form", forms_are_found);
        suite.plain("no configuration shows a secret when it is printed", printed);
        suite.kafka("planted passwords are in no log, error, argument or metric", planted);
        suite.kafka("values of records are in no log and no error", values);
    })
}

/// Everything that was written, by its writer.
#[derive(Default)]
struct Written(Vec<(String, String)>);

impl Written {
    fn add(&mut self, by: &str, text: impl Into<String>) {
        self.0.push((by.to_owned(), text.into()));
    }

    fn add_ended(&mut self, by: &str, ended: &Ended) {
        self.add(by, format!("{}{}", ended.stdout, ended.stderr));
    }

    /// The text around the first form of `secret` that was written.
    fn find(&self, secret: &str) -> Option<String> {
        let forms = forms(secret);
        self.0.iter().find_map(|(by, text)| {
            let line = text.lines().find(|line| forms.iter().any(|form| line.contains(form)))?;
            Some(format!("{by}: {line}"))
        })
    }

    fn holds(&self, text: &str) -> bool {
        self.0.iter().any(|(_, written)| written.contains(text))
    }
}

/// Forms of a secret: plain, as in a URL, JSON or `Debug`, and in base64 at all three offsets.
fn forms(secret: &str) -> Vec<String> {
    let mut forms =
        vec![secret.to_owned(), percent_encoded(secret), secret.escape_debug().to_string()];
    for before in 0..3 {
        let bytes = [&b"\0\0"[..before], secret.as_bytes()].concat();
        // Leaves out characters that depend on their neighbours.
        let whole = base64(&bytes[..bytes.len() / 3 * 3]);
        forms.push(whole[if before == 0 { 0 } else { 4 }..].to_owned());
    }
    forms
}

fn percent_encoded(text: &str) -> String {
    let encoded = |byte: u8| match byte {
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(encoded).collect()
}

/// Base64 of whole groups of three bytes.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = bytes.chunks_exact(3).flat_map(|group| {
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        [18, 12, 6, 0].map(|shift| char::from(DIGITS[(bits >> shift) as usize & 63]))
    });
    digits.collect()
}

async fn forms_are_found(_: Context) -> Result<(), Failure> {
    assert_eq!(base64(b"Man"), "TWFu");
    let told = [
        "with Plant/Url+4711 inside".to_owned(),
        "postgresql://u:Plant%2FUrl%2B4711@h/d".to_owned(),
        // printf 'user:Plant/Url+4711!' | base64, and with one and two letters fewer.
        "dXNlcjpQbGFudC9VcmwrNDcxMSE=".to_owned(),
        "c2VyOlBsYW50L1VybCs0NzExIQ==".to_owned(),
        "ZXI6UGxhbnQvVXJsKzQ3MTEh".to_owned(),
    ];
    for text in told {
        let mut written = Written::default();
        written.add("a program", text.clone());
        assert!(written.find(IN_URL).is_some(), "{text}");
        assert!(written.find(IN_FILE).is_none(), "{text}");
    }
    Ok(())
}

#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    kafka: KafkaArgs,
}

async fn printed(_: Context) -> Result<(), Failure> {
    let database = Postgres::from_parts("h", 1, "n", USER, IN_VARIABLE);
    let by_url = Postgres::new(&url(IN_URL, "h", 1, "n"))?;
    let settings = format!("sasl.username={USER}\nsasl.password={OF_SASL}");
    let kafka = Kafka::new("h:1", "t").group("g").settings(&settings)?;
    let stream = consume(&transaction::pipeline(), &kafka, &database);
    let role = Role { access: Access::Loader, name: USER.into(), password: OF_LOADER.into() };
    let arguments = Arguments::parse_from(["x", "--db-user", USER]);
    let mut written = Written::default();
    let all: [&dyn Debug; 6] = [&database, &by_url, &kafka, &stream, &role, &arguments];
    for it in all {
        written.add("Debug", format!("{it:?} {it:#?}"));
    }
    written.add("Display", format!("{database} {by_url} {kafka}"));
    assert!(written.holds(USER) && written.holds("sasl.password"));
    for secret in SECRETS {
        assert_eq!(written.find(secret), None);
    }
    Ok(())
}

fn url(password: &str, host: &str, port: u16, name: &str) -> String {
    format!("postgresql://{USER}:{}@{host}:{port}/{name}", percent_encoded(password))
}

/// A server that logs every statement, and a bench on it. The programs' role has the
/// password of the URL.
async fn bench(context: Context) -> Result<(OwnPostgres, Bench), Failure> {
    let server = context.own_postgres(&["log_statement=all", "log_connections=on"]).await?;
    let database = server.database().await?;
    let create = format!("create role {USER} superuser login password '{IN_URL}'");
    let admin = database.connect().await?;
    // Otherwise our own statement would put the password into the server's log.
    admin.batch_execute("set log_statement = 'none'").await?;
    admin.batch_execute(&create).await?;
    let (topic, bootstrap) = (context.topic("secrets", 1).await?, context.bootstrap().await?);
    let bench = Bench::with(context, database, topic, bootstrap).await?;
    Ok((server, bench))
}

/// With the most verbose settings.
fn talkative(program: Program, format: &str) -> Program {
    program.env("RUST_LOG", "trace").env("RUST_BACKTRACE", "1").env("LOG_FORMAT", format)
}

/// Settings that the broker does not ask for here, but librdkafka keeps.
fn sasl(more: &str) -> String {
    let key = if cfg!(feature = "kafka-tls") { "ssl.key.password" } else { "#" };
    format!("debug=all\nsasl.username={USER}\nsasl.password={OF_SASL}\n{key}={OF_KEY}\n{more}")
}

async fn planted(context: Context) -> Result<(), Failure> {
    let (server, bench) = bench(context).await?;
    let mut written = Written::default();
    for format in ["json", "pretty"] {
        for (what, program, code) in runs(&bench)? {
            let ended = talkative(program, format).run(DEADLINE).await?;
            let ended = ended.expect_code(code).map_err(|error| format!("{what}: {error}"))?;
            written.add_ended(what, &ended);
        }
        // With a broker without SASL: the outcome depends on the broker.
        let speaks = sasl("security.protocol=sasl_plaintext\nsasl.mechanism=PLAIN");
        let producer = bench.producer(1, 0).env("KAFKA_CONFIG", speaks);
        let mut process = talkative(producer, format).start()?;
        process.says("SASL", DEADLINE).await?;
        written.add("arguments", arguments(&process)?);
        process.signal(Signal::TERM)?;
        let ended = process.wait(DEADLINE).await?;
        assert!(matches!(ended.code(), Some(75 | 78)), "{:?}", ended.status);
        written.add_ended("SASL", &ended);
    }
    written.add("metrics", metrics(&bench).await?);
    written.add("server", server.server.log()?);

    // The programs did write what the test made them write.
    assert!(written.holds("password authentication failed for user \"planted_user\""));
    assert!(written.holds("librdkafka: [thrd:") && written.holds("sasl.password"));
    assert!(written.holds("alter role \"secrets_loader\""), "the server's log is complete");
    for secret in SECRETS {
        assert_eq!(written.find(secret), None);
    }
    // Only the server may log a password's verifier.
    written.0.retain(|(by, _)| by != "server");
    assert_eq!(written.find("SCRAM-SHA-256$"), None);
    Ok(())
}

/// Programs and how they end, on good paths and bad ones.
fn runs(bench: &Bench) -> Result<Vec<(&'static str, Program, i32)>, Failure> {
    let folder = bench.context.folder()?;
    let file = |name: &str, content: &str| {
        let path = folder.join(name);
        fs::write(&path, format!("{content}\n")).map(|()| path)
    };
    let (password_file, reader_file) = (file("password", IN_FILE)?, file("reader", OF_READER)?);
    let login = bench.database.login();
    let good = url(IN_URL, &login.host, login.port, &login.database);
    let program = |path: &str| bench.program(path).env("KAFKA_CONFIG", sasl(""));
    let setup = || {
        let program = bench.context.program(env!("CARGO_BIN_EXE_lambda-db-setup"));
        program.envs(bench.database.environment()).args(["--wait", "1"])
    };
    let load = || bench.context.program(env!("CARGO_BIN_EXE_lambda-csv-batch")).arg(SAMPLE);
    let jobs = || bench.context.program(env!("CARGO_BIN_EXE_lambda")).arg("jobs");
    let consumer = || {
        let program = program(env!("CARGO_BIN_EXE_lambda-consumer")).arg("--exit-at-end");
        program.env("DATABASE_URL", &good)
    };
    let producer = || {
        program(env!("CARGO_BIN_EXE_lambda-producer-stream")).args(["--count", "10", "--rate", "0"])
    };
    let wrong = |program: Program| program.env("DB_USER", USER).env("DB_PASSWORD", IN_VARIABLE);
    let roles = setup()
        .env("DATABASE_URL", &good)
        .env("DB_LOADER_USER", "secrets_loader")
        .env("DB_LOADER_PASSWORD", OF_LOADER)
        .env("DB_READER_USER", "secrets_reader")
        .env("DB_READER_PASSWORD_FILE", reader_file);
    let mut runs = vec![
        ("roles", roles, 0),
        ("wrong password", wrong(setup()), 78),
        ("wrong file", wrong(setup()).env("DB_PASSWORD_FILE", password_file), 78),
        ("away", wrong(setup()).env("DB_PORT", "1"), 69),
        ("load", load().env("DATABASE_URL", &good), 0),
        ("load, wrong", wrong(load().envs(bench.database.environment())), 78),
        ("jobs", jobs().env("DATABASE_URL", &good), 0),
        ("produce", producer(), 0),
        ("consume", consumer(), 0),
    ];
    let urls = [
        format!("postgresql://{USER}:{IN_URL}@h:port/n"),
        format!("postgresql://{USER}:p@{IN_URL}@h/n"),
        format!("host=h user={USER} password=p {IN_URL}=1"),
        format!("{IN_URL}://{IN_URL}"),
    ];
    runs.extend(urls.into_iter().map(|url| ("bad URL", setup().env("DATABASE_URL", url), 78)));
    let lines = [
        format!("sasl.password {OF_SASL}"),
        format!("security.protocol={OF_SASL}"),
        format!("no.such.setting={OF_SASL}"),
        format!("{OF_SASL}=1"),
    ];
    for line in lines {
        runs.push(("bad line", producer().env("KAFKA_CONFIG", &line), 78));
        runs.push(("bad line", consumer().env("KAFKA_CONFIG", &line), 78));
    }
    Ok(runs)
}

fn arguments(process: &Process) -> Result<String, Failure> {
    Ok(fs::read_to_string(format!("/proc/{}/cmdline", process.pid()))?)
}

/// The metrics of a consumer; empty if it exports none.
async fn metrics(bench: &Bench) -> Result<String, Failure> {
    let help = bench.consumer().arg("--help").run(DEADLINE).await?.expect_code(0)?.stdout;
    if !help.contains("HTTP_ADDR") {
        return Ok(String::new());
    }
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let consumer = bench.consumer().env("KAFKA_CONFIG", sasl(""));
    let mut process = consumer.env("HTTP_ADDR", address.to_string()).start()?;
    process.says("joining the group", DEADLINE).await?;
    let mut connection = TcpStream::connect(address).await?;
    connection.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    assert!(answer.contains("lambda_"), "{answer}");
    process.signal(Signal::TERM)?;
    process.wait(DEADLINE).await?.expect_code(0)?;
    Ok(answer)
}

/// A record whose every text is the planted value, in JSON.
fn record(id: &str, location: &str) -> String {
    format!(
        r#"{{"transaction_id":"{VALUE}-{id}","account_id":"{VALUE}","transaction_type":"purchase","amount":"12.34","timestamp":"2026-01-01 00:00:00","location":"{VALUE} {location}"}}"#
    )
}

async fn values(context: Context) -> Result<(), Failure> {
    let (_server, bench) = bench(context).await?;
    // A check names the row in its detail; triggers may raise any text.
    let rules = "\
        alter table transactions add check (location not like '% checked');
        create function quote() returns trigger language plpgsql as $$ begin
            raise notice 'stored %', new.location;
            raise warning 'stored %', new.location;
            if new.location like '% triggered' then
                raise exception 'refused %', new.location;
            end if;
            return new;
        end $$;
        create trigger quote before insert on transactions for each row execute function quote()";
    bench.sql.batch_execute(rules).await?;
    let messages = [
        record("1", "valid"),
        record("1", "valid"),
        record("1", "in conflict"),
        record("2", "checked"),
        record("3", "triggered"),
        record("4", "valid").replace("12.34", VALUE),
        record("5", "valid").replace("2026-01-01", VALUE),
        record("6", "valid").replace("purchase", VALUE),
        format!("{VALUE} is no JSON"),
    ];
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", &bench.bootstrap).create()?;
    for message in &messages {
        let record = BaseRecord::to(&bench.topic).key(VALUE).payload(message);
        producer.send(record).map_err(|(error, _)| error)?;
    }
    producer.flush(DEADLINE)?;

    let file = bench.context.folder()?.join("values.csv");
    let row = |id: &str, amount: &str, location: &str| {
        format!("{VALUE}-{id},{VALUE},purchase,{amount},2026-01-01 00:00:00,,{location},,\n")
    };
    let header = "transaction_id,account_id,transaction_type,amount,timestamp,\
                  merchant_category,location,card_present,risk_score\n";
    let rows = [
        row("1", "12.34", &format!("{VALUE} corrected")),
        row("7", VALUE, "bad"),
        row("8", "1.00", &format!("{VALUE} checked")),
        row("9", "1.00", &format!("{VALUE} triggered")),
        format!("{VALUE},ragged\n"),
    ];
    fs::write(&file, format!("{header}{}", rows.concat()))?;

    let consumer = bench.consumer().arg("--exit-at-end").env("KAFKA_CONFIG", "debug=all");
    let load = bench.context.program(env!("CARGO_BIN_EXE_lambda-csv-batch")).arg(&file);
    let load = load.envs(bench.database.environment());
    let mut written = Written::default();
    for (what, program) in [("consumer", consumer), ("load", load)] {
        let ended = talkative(program, "json").run(DEADLINE).await?.expect_code(0)?;
        written.add_ended(what, &ended);
    }
    // All of it happened and was logged.
    let reasons = "select count(distinct reason) from dead_letters";
    assert!(bench.number(reasons).await? >= 4, "each way of being refused was taken");
    assert_eq!(bench.number("select count(*) from corrections").await?, 1);
    assert!(written.holds("TRACE") && written.holds("librdkafka: [thrd:"));
    assert_eq!(written.find(VALUE), None);
    Ok(())
}
