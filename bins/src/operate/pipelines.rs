//! `lambda pipelines`: compares the pipelines of a file with their tables, and prepares a table.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use lambda_core::config::Definitions;
use lambda_core::postgres::PostgresSink;
use lambda_core::record::{Column, Origin};
use lambda_core::{Error, Pipeline, Postgres};
use serde_json::{Value, json};

use crate::args::{DatabaseArgs, Output, OutputArgs};
use crate::operate::table::{Holds, fitted};
use crate::operate::timeout::{TimeoutArgs, answered};
use crate::{Failure, json};

/// Arguments of `lambda pipelines`.
#[derive(Debug, Args)]
pub struct PipelinesArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compare pipelines with their tables, and show where each column comes from
    Check(FileArgs),
    /// Print the statements that adopt would run on the tables
    Sql(FileArgs),
    /// Set up the database, and add the columns of the evidence to the tables
    Adopt(FileArgs),
}

#[derive(Debug, Args)]
struct FileArgs {
    /// Name of the pipeline [default: all of the file]
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// File that defines them
    #[arg(long, env = "LAMBDA_PIPELINES", hide_env_values = true, value_name = "FILE")]
    pipelines: PathBuf,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the command.
///
/// # Errors
/// 78 if a pipeline is not defined or does not fit its table, 69 if the database does not answer,
/// 75 if another transaction holds a table.
pub async fn run(args: &PipelinesArgs, timeout: TimeoutArgs) -> Result<(), Failure> {
    let (Command::Check(of) | Command::Sql(of) | Command::Adopt(of)) = &args.command;
    let (file, database) = (Definitions::read(&of.pipelines)?, of.database.config()?);
    let names: Vec<&str> = match &of.name {
        Some(name) => file.check(name).map(|()| vec![&**name])?,
        None => file.names().collect(),
    };
    let (server, limit) = (format!("PostgreSQL at {database}"), timeout.reading());
    match &args.command {
        Command::Check(_) => {
            let checking = async {
                let mut checked = Vec::with_capacity(names.len());
                for name in names {
                    checked.push(check(&file, name, &database).await?);
                }
                Ok(checked)
            };
            report(&answered(server, limit, checking).await?, of.output.output)
        }
        Command::Sql(_) => {
            let reading = async {
                let mut statements = Vec::new();
                for name in names {
                    let pipeline = file.pipeline(name, &database).await?;
                    statements.extend(database.adoption(&pipeline).await?);
                }
                Ok(statements)
            };
            print(&answered(server, limit, reading).await?, of.output.output)
        }
        Command::Adopt(_) => {
            timeout.reach(&database).await?;
            let mut statements = Vec::new();
            for name in names {
                let pipeline = file.pipeline(name, &database).await?;
                statements.extend(database.adopt(&pipeline).await?);
            }
            print(&statements, of.output.output)
        }
    }
}

/// A pipeline, compared with its table.
struct Checked {
    name: String,
    topic: String,
    /// Nothing, if the table could not be read.
    pipeline: Option<Pipeline>,
    /// Reason why loaders cannot use it.
    unfit: Option<Error>,
}

/// Compares a pipeline with its table.
///
/// # Errors
/// Those of a server that does not answer.
async fn check(file: &Definitions, name: &str, database: &Postgres) -> Result<Checked, Error> {
    let (name, topic) = (name.to_owned(), file.topic(name).unwrap_or(name).to_owned());
    let read = file.pipeline(&name, database).await;
    let fits = match &read {
        Ok(pipeline) => fits(pipeline, database).await,
        Err(_) => Ok(()),
    };
    let (pipeline, unfit) = match (read, fits) {
        (Ok(pipeline), fits) => (Some(pipeline), fits.err()),
        (Err(error), _) => (None, Some(error)),
    };
    match unfit {
        Some(error) if error.exit_code() != 78 => Err(error),
        unfit => Ok(Checked { name, topic, pipeline, unfit }),
    }
}

/// Checks that loaders can use the table.
async fn fits(pipeline: &Pipeline, database: &Postgres) -> Result<(), Error> {
    // Without the default alone, loaders can use it.
    if database.adoption(pipeline).await?.iter().any(|it| it.contains(" add column ")) {
        return Err(Error::misconfigured(
            format!("{} lacks columns of the evidence", pipeline.table()),
            format!("lambda pipelines adopt {} adds them", pipeline.name()),
        ));
    }
    let patience = Some(Duration::ZERO);
    PostgresSink::connect(database.clone(), pipeline, "check", 1, patience).await.map(drop)
}

fn report(checked: &[Checked], output: Output) -> Result<(), Failure> {
    match output {
        Output::Human => checked.iter().try_for_each(|checked| crate::print(text(checked)))?,
        Output::Json => json::print("pipelines", checked.iter().map(object).collect(), [])?,
    }
    match checked.iter().filter(|checked| checked.unfit.is_some()).count() {
        0 => Ok(()),
        unfit => {
            let what = format!("{unfit} of {} pipelines do not fit", checked.len());
            Err(Failure::Found { what, code: 78 })
        }
    }
}

fn text(checked: &Checked) -> String {
    let Checked { name, topic, pipeline, unfit } = checked;
    let verdict = match (pipeline, unfit) {
        (_, Some(error)) => format!("{name}: {}", error.chain()),
        (Some(pipeline), None) => format!("{name}: {} fits; topic {topic}", pipeline.table()),
        (None, None) => name.clone(),
    };
    let Some(pipeline) = pipeline else { return verdict };
    let columns = [
        ("column", Holds::Id),
        ("type", Holds::Id),
        ("key", Holds::Number),
        ("null", Holds::Id),
        ("from", Holds::Id),
        ("rules", Holds::Prose),
    ];
    let rows = pipeline.table().columns().iter().map(|column| {
        let key = pipeline.table().key_names();
        let place = key.iter().position(|name| *name == column.name);
        [
            column.name.clone(),
            column.kind.to_string(),
            place.map(|place| (place + 1).to_string()).unwrap_or_default(),
            if column.nullable { "yes" } else { "no" }.to_owned(),
            from(column),
            rules(column).join(", "),
        ]
    });
    format!("{verdict}\n{}", fitted(columns, rows))
}

fn object(checked: &Checked) -> Value {
    let Checked { name, topic, pipeline, unfit } = checked;
    let columns = pipeline.iter().flat_map(|pipeline| pipeline.table().columns());
    let column = |column: &Column| {
        json!({
            "name": column.name,
            "type": column.kind.to_string(),
            "nullable": column.nullable,
            "from": from(column),
            "rules": rules(column),
        })
    };
    json!({
        "name": name,
        "table": pipeline.as_ref().map(|pipeline| pipeline.table().to_string()),
        "topic": topic,
        "key": pipeline.iter().flat_map(|it| it.table().key_names()).collect::<Vec<_>>(),
        "columns": columns.map(column).collect::<Vec<_>>(),
        "error": unfit.as_ref().map(Error::chain),
    })
}

/// Where a message has the column's value.
fn from(column: &Column) -> String {
    match &column.origin {
        Origin::Field => column.field.clone(),
        Origin::Key => "the key".into(),
        Origin::Message => "the whole message".into(),
        Origin::Timestamp => "the message's time".into(),
        Origin::Header(name) => format!("header {name}"),
        _ => "the message".into(),
    }
}

fn rules(column: &Column) -> Vec<String> {
    let rules = column.rules.iter().map(ToString::to_string);
    let default = column.default.iter().map(|text| format!("default {text:?}"));
    let rounded = column.rounding.iter().map(|_| "rounded".to_owned());
    let empty = column.empty_is_null.then(|| "empty is null".to_owned());
    rules.chain(rounded).chain(default).chain(empty).collect()
}

/// Prints statements, each as `psql` reads it.
fn print(statements: &[String], output: Output) -> Result<(), Failure> {
    match output {
        Output::Human if statements.is_empty() => {
            crate::print("-- the tables have all columns of the evidence")
        }
        Output::Human => {
            statements.iter().try_for_each(|statement| crate::print(format_args!("{statement};")))
        }
        Output::Json => {
            json::print("statements", statements.iter().map(|it| json!(it)).collect(), [])
        }
    }
}
