//! `lambda-db-setup`: brings a database to this version (schema, roles, grants) and adopts
//! one that was restored into another cluster.

use std::env;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use lambda_bins::args::{DatabaseArgs, HelpArgs, Output, OutputArgs, secret_file};
use lambda_bins::pipelines::{Chosen, PipelineArgs};
use lambda_bins::{Failure, json, print};
use lambda_core::Error;
use lambda_core::postgres::connection::connect_waiting;
use lambda_core::postgres::schema::migrate::PROTOCOL;
use lambda_core::postgres::schema::roles::{Access, Change, Role};
use lambda_core::postgres::schema::{registry, restore, roles};
use lambda_core::transaction;
use serde_json::{Value, json};

const ROLES_HELP: &str = "\
Roles (environment only): DB_LOADER_USER with DB_LOADER_PASSWORD, DB_READER_USER with
DB_READER_PASSWORD, or …_PASSWORD_FILE. A role without a name here is left unchanged.";

/// Sets up the database: schema, roles and grants. Safe to run again
#[derive(Parser)]
#[command(name = "lambda-db-setup", version, disable_help_flag = true, after_help = ROLES_HELP)]
struct Args {
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// Wait this long for the database
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    wait: u64,
    #[command(flatten)]
    help: HelpArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    lambda_bins::run("lambda-db-setup", async |shutdown| {
        tokio::select! {
            done = set_up(&args) => done,
            () = shutdown.stopped() => Err(Error::Interrupted { what: "the setup".into() }.into()),
        }
    })
}

async fn set_up(args: &Args) -> Result<(), Failure> {
    let (chosen, config) = (args.pipeline.chosen()?, args.database.config()?);
    let roles = wanted_roles(|name| env::var(name).ok().filter(|value| !value.is_empty()))?;
    let patience = Duration::from_secs(args.wait);
    drop(connect_waiting(&config, "setup", Some(patience)).await?);

    let mut applied = PROTOCOL.migrate(&config).await?;
    match &chosen {
        Chosen::Transactions => applied.extend(transaction::schema::migrate(&config).await?),
        Chosen::Defined { .. } => {
            registry::register(&config, &[&chosen.pipeline(&config).await?]).await?;
        }
    }
    let adopted = restore::adopt(&config).await?;
    let changes = roles::ensure(&config, &roles, chosen.readable()).await?;

    match args.output.output {
        Output::Json => {
            let restored = adopted.map(|adopted| {
                json!({
                    "xid_offset": adopted.xid_offset,
                    "claims_cleared": adopted.claims_cleared,
                })
            });
            let facts = [
                ("database", json!(config.to_string())),
                ("migrations", json!(applied)),
                ("restored", json!(restored)),
            ];
            json::print("roles", roles.iter().zip(&changes).map(role_json).collect(), facts)
        }
        Output::Human => {
            match applied.as_slice() {
                [] => print(format_args!("{config}: the schema is up to date"))?,
                applied => print(format_args!("{config}: applied {}", applied.join(", ")))?,
            }
            if let Some(restore::Adopted { xid_offset, claims_cleared }) = adopted {
                print(format_args!(
                    "restored from another cluster: transaction ids moved by {xid_offset}, \
                     {claims_cleared} claims cleared"
                ))?;
            }
            for (role, change) in roles.iter().zip(&changes) {
                print(format_args!("{} role {}: {}", role.access, role.name, verb(*change)))?;
            }
            Ok(())
        }
    }
}

fn verb(change: Change) -> &'static str {
    match change {
        Change::Created => "created",
        Change::Updated => "updated",
    }
}

fn role_json((role, change): (&Role, &Change)) -> Value {
    json!({ "access": role.access.to_string(), "name": role.name, "change": verb(*change) })
}

/// The roles that the environment names, each with its password.
fn wanted_roles(variable: impl Fn(&str) -> Option<String>) -> Result<Vec<Role>, Error> {
    let mut roles = Vec::new();
    for (access, prefix) in [(Access::Loader, "DB_LOADER"), (Access::Reader, "DB_READER")] {
        let Some(name) = variable(&format!("{prefix}_USER")) else { continue };
        let setting = format!("{prefix}_PASSWORD");
        let file = format!("{setting}_FILE");
        let password = match (variable(&file), variable(&setting)) {
            (Some(path), _) => secret_file(Path::new(&path), &file)?,
            (None, Some(password)) => password,
            (None, None) => {
                let what = format!("{access} role {name} has no password");
                return Err(Error::misconfigured(what, format!("set {setting} or {file}")));
            }
        };
        roles.push(Role { access, name, password });
    }
    Ok(roles)
}
