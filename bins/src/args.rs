//! Groups of arguments that binaries share, each with its environment variable.
//!
//! Secrets come from the environment or from a file. There is no flag for them: every user
//! of the machine can read another process's arguments.

use std::env;
use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};
use lambda_core::Error;
use lambda_core::kafka::Kafka;
use lambda_core::postgres::connection::config::secret_in;
use lambda_core::postgres::{Postgres, SslMode, TlsSettings};
use lambda_core::record::UnixMicros;

/// The pipeline that is built in.
pub(crate) const TRANSACTIONS: &str = "transactions";

/// Heading of the database options.
const DATABASE: &str =
    "Database (password: DB_PASSWORD; TLS: DB_SSLMODE; own schema: DB_SCHEMA; or DATABASE_URL)";

/// Heading of the Kafka options.
const KAFKA: &str = "Kafka (librdkafka settings, one key=value a line: KAFKA_CONFIG)";

// Each option names its heading: `next_help_heading` would also apply after the struct.

/// Database address and login. `DATABASE_URL` overrides all of it but `DB_SCHEMA`.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_field_names, reason = "clap makes the flags and variables of these names")]
pub struct DatabaseArgs {
    /// Host name or address
    #[arg(
        long,
        env,
        default_value = "localhost",
        hide_env_values = true,
        value_name = "HOST",
        help_heading = DATABASE
    )]
    db_host: String,
    /// Port
    #[arg(
        long,
        env,
        default_value_t = 5432,
        hide_env_values = true,
        value_name = "PORT",
        help_heading = DATABASE
    )]
    db_port: u16,
    /// Database name
    #[arg(long, env, hide_env_values = true, value_name = "NAME", help_heading = DATABASE)]
    db_name: Option<String>,
    /// Role to log in as
    #[arg(long, env, hide_env_values = true, value_name = "ROLE", help_heading = DATABASE)]
    db_user: Option<String>,
    /// File with the password
    #[arg(long, env, hide_env_values = true, value_name = "FILE", help_heading = DATABASE)]
    db_password_file: Option<PathBuf>,
    /// disable|prefer|require|verify-ca|verify-full
    #[arg(
        long,
        env,
        default_value_t,
        hide_env_values = true,
        hide_env = true,
        value_name = "MODE",
        help_heading = DATABASE
    )]
    db_sslmode: SslMode,
    /// Trusted authorities: a PEM file, or "system"
    #[arg(long, env, hide_env_values = true, value_name = "FILE", help_heading = DATABASE)]
    db_sslrootcert: Option<String>,
}

impl DatabaseArgs {
    /// The database that the arguments and the environment name.
    ///
    /// # Errors
    /// `Fatal` for a missing name or user, a password file or URL that cannot be read, or
    /// authorities that cannot be used.
    pub fn config(&self) -> Result<Postgres, Error> {
        self.config_in(|name| env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// Like [`Self::config`], with the given environment.
    fn config_in(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Postgres, Error> {
        let schema = variable("DB_SCHEMA").map(|name| name.parse()).transpose()?;
        Ok(self.login(variable)?.with_schema(schema.unwrap_or_default()))
    }

    fn login(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Postgres, Error> {
        let tls = TlsSettings { mode: self.db_sslmode, root_cert: self.db_sslrootcert.clone() };
        if let Some(url) = variable("DATABASE_URL") {
            // A URL without a mode must not weaken DB_SSLMODE.
            return Postgres::with_tls_or(&url, &tls);
        }
        let name = required(self.db_name.as_deref(), "DB_NAME")?;
        let user = required(self.db_user.as_deref(), "DB_USER")?;
        let login = |password: &str| {
            Postgres::from_parts(&self.db_host, self.db_port, name, user, password).with_tls(&tls)
        };
        match &self.db_password_file {
            Some(file) => {
                let password = secret_file(file, "DB_PASSWORD_FILE")?;
                Ok(login(&password)?.with_password_file(file.clone()))
            }
            None => login(&variable("DB_PASSWORD").unwrap_or_default()),
        }
    }
}

/// The cluster, the topic and the consumer group.
#[derive(Debug, Clone, Args)]
pub struct KafkaArgs {
    /// First brokers to ask
    #[arg(
        long,
        env = "KAFKA_BOOTSTRAP_SERVERS",
        default_value = "localhost:9092",
        hide_env_values = true,
        value_name = "HOST:PORT,…",
        help_heading = KAFKA
    )]
    pub bootstrap_servers: String,
    /// Topic [default: transactions, or the pipeline's]
    #[arg(
        long,
        env = "KAFKA_TOPIC",
        hide_env_values = true,
        value_name = "NAME",
        help_heading = KAFKA
    )]
    pub topic: Option<String>,
    /// Consumer group [default: lambda-consumer]
    #[arg(
        long,
        env = "KAFKA_GROUP_ID",
        hide_env_values = true,
        value_name = "NAME",
        help_heading = KAFKA
    )]
    pub group_id: Option<String>,
}

impl KafkaArgs {
    /// The topic and the group, with the librdkafka settings of `KAFKA_CONFIG`. These may
    /// hold secrets, so they come from the environment only.
    ///
    /// # Errors
    /// `Fatal` for an empty name, an unknown setting, or one that breaks exactly-once
    /// delivery.
    pub fn config(&self) -> Result<Kafka, Error> {
        self.config_for(TRANSACTIONS, None)
    }

    /// Like [`Self::config`], for a pipeline, which may have a topic of its own. Each pipeline has a
    /// group of its own, or one would wait for the other's rebalances.
    ///
    /// # Errors
    /// As [`Self::config`].
    pub fn config_for(&self, pipeline: &str, topic: Option<&str>) -> Result<Kafka, Error> {
        let extra = env::var("KAFKA_CONFIG").unwrap_or_default();
        let topic = self.topic.as_deref().or(topic).unwrap_or(pipeline);
        let group = self.group_id.clone().unwrap_or_else(|| match pipeline {
            TRANSACTIONS => "lambda-consumer".to_owned(),
            other => format!("lambda-consumer-{other}"),
        });
        Kafka::new(&self.bootstrap_servers, topic).group(&group).settings(&extra)
    }
}

/// Address at which a long-running program serves health and metrics.
#[derive(Debug, Clone, Args)]
pub struct HttpArgs {
    /// Serve /livez, /readyz and /metrics here
    #[arg(long, env, hide_env_values = true, value_name = "HOST:PORT")]
    http_addr: Option<String>,
}

impl HttpArgs {
    /// The address; `None` if it is empty or not set.
    pub fn address(&self) -> Option<&str> {
        self.http_addr.as_deref().filter(|address| !address.is_empty())
    }
}

/// `-h` and `--help`, both short. For commands that switch clap's own off, whose `--help`
/// puts an empty line between options.
#[derive(Debug, Clone, Args)]
pub struct HelpArgs {
    /// Print help
    #[arg(short, long, action = ArgAction::HelpShort)]
    help: Option<bool>,
}

/// Format of a program's summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Text for people.
    Human,
    /// One JSON object, see [`json::print`](crate::json::print).
    Json,
}

/// Option for the format of a program's summary.
#[derive(Debug, Clone, Copy, Args)]
pub struct OutputArgs {
    /// Summary format: human or json
    #[arg(
        long,
        env = "LAMBDA_OUTPUT",
        value_enum,
        default_value = "human",
        hide_env_values = true,
        hide_possible_values = true,
        value_name = "FORMAT"
    )]
    pub output: Output,
}

/// Reads a file that holds one secret, without the line end that editors add.
///
/// # Errors
/// `Fatal`, naming `setting`, the variable that holds the path.
pub fn secret_file(path: &std::path::Path, setting: &str) -> Result<String, Error> {
    secret_in(path).map_err(|error| Error::Misconfigured {
        what: format!("could not read {}", path.display()),
        remedy: format!("set {setting} to a file that this user can read"),
        source: Some(Box::new(error)),
    })
}

/// Parses a time into microseconds since the Unix epoch. It is UTC unless it has an offset.
///
/// # Errors
/// The expected format of a time.
pub fn moment(text: &str) -> Result<i64, String> {
    let time = text.parse::<UnixMicros>();
    time.map(|time| time.0)
        .map_err(|_| "write 2025-06-19T00:00:00Z, or 2025-06-19 00:00:00 for UTC".to_owned())
}

fn required<'a>(value: Option<&'a str>, name: &str) -> Result<&'a str, Error> {
    value.filter(|value| !value.is_empty()).ok_or_else(|| Error::Misconfigured {
        what: format!("{name} is not set"),
        remedy: format!("set {name}, or DATABASE_URL"),
        source: None,
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use std::io::Write;

    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Example {
        #[command(flatten)]
        database: DatabaseArgs,
        #[command(flatten)]
        kafka: KafkaArgs,
        #[command(flatten)]
        output: OutputArgs,
    }

    fn parse(flags: &[&str]) -> DatabaseArgs {
        Example::parse_from([&["example"], flags].concat()).database
    }

    fn nothing(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn help_fits_one_screen_and_offers_no_password_flag() {
        let help = Example::command().render_help().to_string();
        assert!(help.lines().count() <= 24, "{help}");
        assert!(!help.contains("--db-password "), "{help}");
    }

    #[test]
    fn the_parts_make_the_database() {
        let args = parse(&["--db-host", "db", "--db-port", "6000", "--db-name=n", "--db-user=u"]);
        assert_eq!(args.config_in(nothing).unwrap().to_string(), "db:6000/n");
    }

    #[test]
    fn a_database_url_beats_the_parts() {
        let args = parse(&["--db-host", "db", "--db-name=n", "--db-user=u"]);
        let config = args
            .config_in(|name| {
                (name == "DATABASE_URL").then(|| "postgresql://u:p@other:7000/m".into())
            })
            .unwrap();
        assert_eq!(config.to_string(), "other:7000/m");
    }

    #[test]
    fn a_password_file_is_read_without_its_line_end() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b" secret \n").unwrap();
        assert_eq!(secret_file(file.path(), "DB_PASSWORD_FILE").unwrap(), " secret ");
    }

    #[test]
    fn a_missing_name_and_a_missing_file_are_configuration_errors() {
        let nameless = parse(&["--db-user=u"]).config_in(nothing).unwrap_err();
        assert_eq!(
            (nameless.exit_code(), nameless.to_string().as_str()),
            (78, "DB_NAME is not set")
        );
        let args = parse(&["--db-name=n", "--db-user=u", "--db-password-file=/nonexistent"]);
        assert_eq!(args.config_in(nothing).unwrap_err().exit_code(), 78);
    }

    #[test]
    fn the_urls_tls_mode_overrides_the_settings() {
        let args = parse(&["--db-sslmode=verify-full", "--db-sslrootcert=/nonexistent"]);
        let with = |url: &'static str| {
            args.config_in(move |name| (name == "DATABASE_URL").then(|| url.into()))
        };
        for url in ["postgresql://u@h/n", "host=h user=u sslmode=verify-ca"] {
            let error = with(url).unwrap_err();
            assert_eq!(error.exit_code(), 78, "{url}");
            assert!(error.chain().contains("/nonexistent"), "{}", error.chain());
        }
        assert!(with("postgresql://u@h/n?sslmode=disable").is_ok());
        assert_eq!(with("postgresql://u@h/n?sslmode=nonsense").unwrap_err().exit_code(), 78);
    }

    #[test]
    fn the_schema_is_set_by_its_variable() {
        let args = parse(&["--db-name=n", "--db-user=u"]);
        let with = |schema: &'static str| {
            args.config_in(move |name| (name == "DB_SCHEMA").then(|| schema.into()))
        };
        assert_eq!(with("ops").unwrap().schema().name(), "ops");
        assert_eq!(with("Ops;").unwrap_err().exit_code(), 78);
        assert_eq!(args.config_in(nothing).unwrap().schema().name(), "lambda");
    }

    #[test]
    fn a_time_without_an_offset_is_utc() {
        assert_eq!(moment("1970-01-01 00:00:01"), Ok(1_000_000));
        assert_eq!(moment("1970-01-01T02:00:01+02:00"), Ok(1_000_000));
        assert!(moment("yesterday").is_err());
    }
}
