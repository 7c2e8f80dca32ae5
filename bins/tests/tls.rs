//! TLS to PostgreSQL and to Kafka, by the real binaries on real servers: which connections
//! are accepted, which are refused, and with which messages.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use lambda_lab::Failure;
use lambda_lab::harness::{Context, Suite};
use lambda_lab::ledger::Ledger;
use lambda_lab::processes::{Ended, Program, Signal};
use lambda_lab::servers::certificates::Authority;
use lambda_lab::servers::{Database, OwnPostgres, SecuredKafka};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use support::{Bench, DEADLINE};

/// Access with and without TLS, and with TLS only.
const ANY: &str = "host all all 127.0.0.1/32 scram-sha-256\n";
const TLS_ONLY: &str = "hostssl all all 127.0.0.1/32 scram-sha-256\n";

/// The name in good certificates; the address counts as another host.
const HOST: &str = "localhost";
const OTHER_HOST: &str = "127.0.0.1";

const SAMPLE: &str = "../k8s/base/batch/sample/financial_transactions.csv";
const PASSWORD: &str = "loaders-pass-4711";

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        suite.deadline(180);
        suite.plain("verify-full refuses another authority and another host", verify_full);
        suite.plain("verify-ca refuses another authority and takes another host", verify_ca);
        suite.plain("require and prefer encrypt and verify nothing, disable does not", unverified);
        suite.plain("require and prefer take a certificate of version 1, as libpq does", version_1);
        suite.plain("a URL has the same TLS settings, and channel binding holds", by_url);
        suite.plain("without a file the authorities of this machine are trusted", system);
        suite.plain("an expired certificate is refused", expired);
        suite.plain("a client that requires TLS reports a server without it", without_tls);
        suite.plain("a server that requires TLS is reported to a client without it", tls_only);
        suite.plain("a handshake that breaks off is waited for", broken_off);
        suite.kafka("a topic and a file are stored whole over verify-full", whole);
        kafka(suite);
    })
}

/// Tests that need a broker, and programs built with TLS for Kafka.
fn kafka(suite: &mut Suite) {
    let names = [
        "a topic is filled and stored over SASL_SSL with SCRAM",
        "a wrong SCRAM password ends with 78 and says what to set",
        "a broker of another authority or host is reported until it is fixed",
        "an operator's command on such a broker ends with 78 and says what to set",
    ];
    if cfg!(feature = "kafka-tls") {
        suite.docker(names[0], scram);
        suite.docker(names[1], wrong_password);
        suite.docker(names[2], distrusted);
        suite.docker(names[3], distrusted_once);
    } else {
        for name in names {
            suite.ignored(name, "the programs were built without kafka-tls");
        }
    }
}

/// A PostgreSQL with TLS, the file of its authority, and that of another one.
struct Secured {
    context: Context,
    server: OwnPostgres,
    database: Database,
    trusted: PathBuf,
    foreign: PathBuf,
}

impl Secured {
    async fn new(context: Context, access: &str) -> Result<Self, Failure> {
        let authority = Authority::new()?;
        let server = context.tls_postgres(&authority.issue(HOST)?, access).await?;
        Self::at(context, server, &authority).await
    }

    async fn at(
        context: Context,
        server: OwnPostgres,
        authority: &Authority,
    ) -> Result<Self, Failure> {
        let database = server.database().await?;
        let folder = context.folder()?;
        let (trusted, foreign) = (folder.join("trusted.pem"), folder.join("foreign.pem"));
        fs::write(&trusted, authority.certificate())?;
        fs::write(&foreign, Authority::new()?.certificate())?;
        Ok(Self { context, server, database, trusted, foreign })
    }

    /// A program that logs in once.
    fn setup(&self) -> Program {
        let program = self.context.program(env!("CARGO_BIN_EXE_lambda-db-setup"));
        program.envs(self.database.environment()).args(["--wait", "5"])
    }

    async fn log_in(
        &self,
        host: &str,
        mode: &str,
        trusted: Option<&Path>,
        code: i32,
    ) -> Result<Ended, Failure> {
        let mut program = self.setup().env("DB_HOST", host).env("DB_SSLMODE", mode);
        if let Some(file) = trusted {
            program = program.env("DB_SSLROOTCERT", file);
        }
        program.run(DEADLINE).await?.expect_code(code)
    }

    /// Whether the last login of a program was over TLS, by the server's own log.
    fn was_encrypted(&self) -> Result<bool, Failure> {
        let log = self.server.server.log()?;
        let logins =
            |line: &&str| line.contains("connection authorized") && line.contains("-setup");
        let last = log.lines().rfind(logins).ok_or("no login")?;
        Ok(last.contains("SSL enabled (protocol=TLSv1.3"))
    }
}

async fn verify_full(context: Context) -> Result<(), Failure> {
    let secured = Secured::new(context, ANY).await?;
    let (trusted, foreign) = (Some(secured.trusted.as_path()), Some(secured.foreign.as_path()));
    secured.log_in(HOST, "verify-full", trusted, 0).await?;
    assert!(secured.was_encrypted()?);

    let refused = secured.log_in(HOST, "verify-full", foreign, 78).await?;
    refused.says(&["is not signed by an authority in", "foreign.pem", "set DB_SSLROOTCERT"]);
    let refused = secured.log_in(OTHER_HOST, "verify-full", trusted, 78).await?;
    refused.says(&[
        "is for another host",
        OTHER_HOST,
        "set DB_HOST to a name in its subjectAltName",
    ]);
    let missing = secured.log_in(HOST, "verify-full", Some(Path::new("/nonexistent")), 78).await?;
    missing.says(&["could not read /nonexistent", "set DB_SSLROOTCERT"]);
    Ok(())
}

async fn verify_ca(context: Context) -> Result<(), Failure> {
    let secured = Secured::new(context, ANY).await?;
    let (trusted, foreign) = (Some(secured.trusted.as_path()), Some(secured.foreign.as_path()));
    // With authorities, `require` verifies as libpq's does.
    for mode in ["verify-ca", "require"] {
        secured.log_in(OTHER_HOST, mode, trusted, 0).await?;
        assert!(secured.was_encrypted()?);
        let refused = secured.log_in(HOST, mode, foreign, 78).await?;
        refused.says(&["is not signed by an authority in", "set DB_SSLROOTCERT"]);
    }
    // The machine's authorities sign for any host, and the name is not checked.
    let system = Some(Path::new("system"));
    for (mode, trusted) in [("verify-ca", None), ("verify-ca", system), ("require", system)] {
        let refused = secured.log_in(HOST, mode, trusted, 78).await?;
        refused.says(&[
            mode,
            "does not verify the host name",
            "DB_SSLROOTCERT to your own authority",
        ]);
    }
    Ok(())
}

async fn unverified(context: Context) -> Result<(), Failure> {
    let secured = Secured::new(context, ANY).await?;
    for (mode, encrypted) in [("require", true), ("prefer", true), ("disable", false)] {
        secured.log_in(OTHER_HOST, mode, None, 0).await?;
        assert_eq!(secured.was_encrypted()?, encrypted, "{mode}");
    }
    let unused = secured.log_in(HOST, "prefer", Some(&secured.trusted), 78).await?;
    unused.says(&["verifies nothing", "set DB_SSLMODE to verify-full"]);
    Ok(())
}

/// Only verifies that the server has the certificate's key, which channel binding relies on.
async fn version_1(context: Context) -> Result<(), Failure> {
    let authority = Authority::new()?;
    let server = context.tls_postgres(&authority.issue_version_1(HOST)?, ANY).await?;
    let secured = Secured::at(context, server, &authority).await?;
    for mode in ["prefer", "require"] {
        secured.log_in(OTHER_HOST, mode, None, 0).await?;
        assert!(secured.was_encrypted()?, "{mode}");
    }
    let login = secured.database.login();
    let bound = format!(
        "host={HOST} port={} dbname={} user={} password='{}' sslmode=require channel_binding=require",
        login.port, login.database, login.user, login.password
    );
    secured.setup().env("DATABASE_URL", bound).run(DEADLINE).await?.expect_code(0)?;
    secured.log_in(HOST, "verify-full", Some(&secured.trusted), 78).await?;
    Ok(())
}

async fn by_url(context: Context) -> Result<(), Failure> {
    let secured = Secured::new(context, ANY).await?;
    let login = secured.database.login();
    let (user, password, port, name) = (&login.user, &login.password, login.port, &login.database);
    let file = |path: &Path| path.display().to_string();
    let url = |host: &str, trusted: &Path| {
        format!(
            "postgresql://{user}:{password}@{host}:{port}/{name}?sslmode=verify-full\
             &channel_binding=require&sslrootcert={}",
            file(trusted)
        )
    };
    let pairs = |trusted: &Path| {
        format!(
            "host={HOST} port={port} dbname={name} user={user} password='{password}' \
             sslmode=verify-full channel_binding=require sslrootcert='{}'",
            file(trusted)
        )
    };
    let table = [
        (url(HOST, &secured.trusted), 0),
        (url(HOST, &secured.foreign), 78),
        (url(OTHER_HOST, &secured.trusted), 78),
        (pairs(&secured.trusted), 0),
        (pairs(&secured.foreign), 78),
    ];
    for (url, code) in table {
        // The URL overrides the other settings.
        let program = secured.setup().env("DATABASE_URL", url).env("DB_SSLMODE", "disable");
        program.run(DEADLINE).await?.expect_code(code)?;
        assert!(secured.was_encrypted()?);
    }
    Ok(())
}

async fn system(context: Context) -> Result<(), Failure> {
    let secured = Secured::new(context, ANY).await?;
    for (file, code) in [(&secured.trusted, 0), (&secured.foreign, 78)] {
        // The variable that OpenSSL and its forks read instead of the machine's own file.
        let program = secured.setup().env("DB_HOST", HOST).env("DB_SSLMODE", "verify-full");
        let program = program.env("SSL_CERT_FILE", file);
        program.run(DEADLINE).await?.expect_code(code)?;
        program.env("DB_SSLROOTCERT", "system").run(DEADLINE).await?.expect_code(code)?;
    }
    Ok(())
}

async fn expired(context: Context) -> Result<(), Failure> {
    let authority = Authority::new()?;
    let server = context.tls_postgres(&authority.issue_expired(HOST)?, ANY).await?;
    let secured = Secured::at(context, server, &authority).await?;
    for mode in ["verify-full", "verify-ca"] {
        let refused = secured.log_in(HOST, mode, Some(&secured.trusted), 78).await?;
        refused.says(&["has expired", HOST, "renew the server's certificate"]);
    }
    secured.log_in(HOST, "require", None, 0).await?;
    Ok(())
}

async fn without_tls(context: Context) -> Result<(), Failure> {
    let authority = Authority::new()?;
    let server = context.own_postgres(&["log_connections=on"]).await?;
    let secured = Secured::at(context, server, &authority).await?;
    for mode in ["require", "verify-full"] {
        let trusted = (mode == "verify-full").then_some(secured.trusted.as_path());
        let refused = secured.log_in(HOST, mode, trusted, 78).await?;
        refused.says(&["offers no TLS", mode, HOST, "set ssl = on at the server"]);
    }
    for mode in ["prefer", "disable"] {
        secured.log_in(HOST, mode, None, 0).await?;
        assert!(!secured.was_encrypted()?);
    }
    Ok(())
}

async fn tls_only(context: Context) -> Result<(), Failure> {
    let secured = Secured::new(context, TLS_ONLY).await?;
    let refused = secured.log_in(HOST, "disable", None, 78).await?;
    refused.says(&["no pg_hba.conf entry", "DB_SSLMODE"]);
    secured.log_in(HOST, "prefer", None, 0).await?;
    assert!(secured.was_encrypted()?);
    Ok(())
}

async fn broken_off(context: Context) -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let server = tokio::spawn(async move {
        let mut handshakes = 0;
        while let Ok((mut client, _)) = listener.accept().await {
            let mut asked = [0; 8];
            let _ = client.read_exact(&mut asked).await;
            let _ = client.write_all(b"S").await;
            handshakes += i32::from(client.read(&mut asked).await.is_ok_and(|read| read > 0));
            if handshakes == 2 {
                break;
            }
        }
        handshakes
    });
    let program = context.program(env!("CARGO_BIN_EXE_lambda-db-setup"));
    let program = program
        .envs([("DB_HOST", HOST), ("DB_NAME", "n"), ("DB_USER", "u"), ("DB_SSLMODE", "require")])
        .env("DB_PORT", port.to_string())
        .args(["--wait", "3"]);
    let ended = program.run(DEADLINE).await?.expect_code(69)?;
    ended.says(&["waiting for PostgreSQL", "PostgreSQL is not reachable"]);
    assert_eq!(server.await?, 2, "it was tried again");
    Ok(())
}

async fn whole(context: Context) -> Result<(), Failure> {
    // The server refuses connections without TLS.
    let secured = Secured::new(context.clone(), TLS_ONLY).await?;
    let (topic, bootstrap) = (context.topic("tls", 3).await?, context.bootstrap().await?);
    let bench = Bench::with(context, secured.database.clone(), topic, bootstrap).await?;
    let over_tls = |program: Program| {
        let program = program.env("DB_HOST", HOST).env("DB_SSLMODE", "verify-full");
        program.env("DB_SSLROOTCERT", &secured.trusted)
    };
    let ledger = bench.produce(5_000).await?;
    let consumer = over_tls(bench.consumer().arg("--exit-at-end"));
    consumer.run(DEADLINE).await?.expect_code(0)?;
    bench.is_exact(&ledger).await?;

    let load = bench.context.program(env!("CARGO_BIN_EXE_lambda-csv-batch")).arg(SAMPLE);
    over_tls(load.envs(bench.database.environment())).run(DEADLINE).await?.expect_code(0)?;
    let loaded = "select count(*) from transactions where ingestion_type = 'BATCH'";
    assert_eq!(bench.number(loaded).await?, 30);
    Ok(())
}

/// A broker that calls itself [`HOST`], a topic of it, and the files of both authorities.
struct Broker {
    kafka: SecuredKafka,
    bench: Bench,
    trusted: PathBuf,
    foreign: PathBuf,
}

impl Broker {
    async fn new(context: Context) -> Result<Self, Failure> {
        let authority = Authority::new()?;
        let kafka = context.secured_kafka(&authority.issue(HOST)?).await?;
        kafka.add_user("loader", PASSWORD).await?;
        let topic = kafka.broker().topic("secured", 2).await?;
        let folder = context.folder()?;
        let (trusted, foreign) = (folder.join("trusted.pem"), folder.join("foreign.pem"));
        fs::write(&trusted, authority.certificate())?;
        fs::write(&foreign, Authority::new()?.certificate())?;
        let database = context.database().await?;
        let bootstrap = format!("{HOST}:{}", kafka.port());
        let bench = Bench::with(context, database, topic, bootstrap).await?;
        Ok(Self { kafka, bench, trusted, foreign })
    }

    fn settings(password: &str, authorities: &Path) -> String {
        format!(
            "security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\nsasl.username=loader\n\
             sasl.password={password}\nssl.ca.location={}",
            authorities.display()
        )
    }

    /// Settings for brokers that they do not trust: signed by another authority, and reached
    /// under another host's name.
    fn distrusting(&self) -> [(String, String); 2] {
        let other_host = format!("{OTHER_HOST}:{}", self.kafka.port());
        [
            (Self::settings(PASSWORD, &self.foreign), self.bench.bootstrap.clone()),
            (Self::settings(PASSWORD, &self.trusted), other_host),
        ]
    }

    /// Runs operator's commands, which fail with 78 and these words. Returns all their output.
    async fn refuses_questions(
        &self,
        settings: &str,
        bootstrap: &str,
        words: &[&str],
    ) -> Result<String, Failure> {
        let asked: [&[&str]; 3] = [
            &["doctor", "--only", "kafka", "--output", "json"],
            &["topic", "ensure", "--partitions", "1"],
            &["wait-for", "kafka"],
        ];
        let mut all = String::new();
        for question in asked {
            let lambda = self.bench.context.program(env!("CARGO_BIN_EXE_lambda"));
            let lambda = lambda.env("KAFKA_BOOTSTRAP_SERVERS", bootstrap);
            let lambda = lambda.env("KAFKA_TOPIC", &self.bench.topic).env("KAFKA_CONFIG", settings);
            let refused = lambda.args(question).run(DEADLINE).await?.expect_code(78)?;
            let said = refused.stdout + &refused.stderr;
            for word in words {
                assert!(said.contains(word), "{question:?}: {word:?} is not in:\n{said}");
            }
            all.push_str(&said);
        }
        Ok(all)
    }
}

async fn scram(context: Context) -> Result<(), Failure> {
    let broker = Broker::new(context).await?;
    let settings = Broker::settings(PASSWORD, &broker.trusted);
    let bench = &broker.bench;
    let with = |program: Program| program.env("KAFKA_CONFIG", &settings);
    with(bench.producer(2_000, 0)).run(DEADLINE).await?.expect_code(0)?;
    let consumer = with(bench.consumer().arg("--exit-at-end"));
    consumer.run(DEADLINE).await?.expect_code(0)?;
    bench.is_exact(&Ledger::read(&bench.ledger)?).await
}

async fn wrong_password(context: Context) -> Result<(), Failure> {
    let broker = Broker::new(context).await?;
    let settings = Broker::settings("not-the-pass-4712", &broker.trusted);
    let bench = &broker.bench;
    let programs = [bench.producer(10, 0), bench.consumer(), bench.consumer().arg("--exit-at-end")];
    for program in programs {
        let refused = program.env("KAFKA_CONFIG", &settings).run(DEADLINE).await?;
        let refused = refused.expect_code(78)?;
        refused.says(&["check sasl.username and sasl.password in KAFKA_CONFIG"]);
        assert!(!refused.stderr.contains("4712"), "{}", refused.stderr);
    }
    let words = ["check sasl.username and sasl.password in KAFKA_CONFIG"];
    let said = broker.refuses_questions(&settings, &bench.bootstrap, &words).await?;
    assert!(!said.contains("4712"), "{said}");
    Ok(())
}

async fn distrusted(context: Context) -> Result<(), Failure> {
    let broker = Broker::new(context).await?;
    for (settings, bootstrap) in &broker.distrusting() {
        let with = |program: Program| {
            program.env("KAFKA_CONFIG", settings).env("KAFKA_BOOTSTRAP_SERVERS", bootstrap)
        };
        let bench = &broker.bench;
        let programs = [
            (with(bench.producer(10, 0)), 75),
            (with(bench.consumer()), 0),
            (with(bench.consumer().arg("--exit-at-end")), 75),
        ];
        for (program, code) in programs {
            let mut process = program.start()?;
            process.says("set ssl.ca.location in KAFKA_CONFIG", DEADLINE).await?;
            process.says("certificate verify failed", Duration::from_secs(1)).await?;
            process.signal(Signal::TERM)?;
            process.wait(DEADLINE).await?.expect_code(code)?;
        }
    }
    Ok(())
}

async fn distrusted_once(context: Context) -> Result<(), Failure> {
    let broker = Broker::new(context).await?;
    for (settings, bootstrap) in &broker.distrusting() {
        let no_certificate =
            format!("could not verify a certificate of the brokers at {bootstrap}");
        let words =
            [&no_certificate, "certificate verify failed", "set ssl.ca.location in KAFKA_CONFIG"];
        broker.refuses_questions(settings, bootstrap, &words).await?;
    }
    // An address without a broker is different: the programs wait for it.
    let settings = Broker::settings(PASSWORD, &broker.trusted);
    let lambda = broker.bench.context.program(env!("CARGO_BIN_EXE_lambda"));
    let lambda = lambda.env("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1").env("KAFKA_CONFIG", settings);
    let lambda = lambda.args(["wait-for", "kafka", "--timeout", "1"]);
    lambda.run(DEADLINE).await?.expect_code(69)?.says(&["Kafka is not reachable"]);
    Ok(())
}

trait Says {
    /// Checks that standard error contains all of these.
    fn says(&self, texts: &[&str]);
}

impl Says for Ended {
    fn says(&self, texts: &[&str]) {
        for text in texts {
            assert!(self.stderr.contains(text), "{text:?} is not in:\n{}", self.stderr);
        }
    }
}
