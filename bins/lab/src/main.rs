//! `lambda-lab`: the demo, and generated input.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use lambda_core::transaction::synthetic::{Format, Options as Traffic};
use lambda_lab::demo::{self, Damage};
use lambda_lab::{Failure, generate};

/// Shows and exercises the platform; for developers.
#[derive(Debug, Parser)]
struct Command {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Stream, kill a consumer inside COPY, load files, compare with the ledger
    Demo(DemoArgs),
    /// Write made-up transactions as CSV or JSON lines
    Generate(GenerateArgs),
}

/// The demo reads no environment variables: a shell may be set up for
/// production.
#[derive(Debug, Args)]
struct DemoArgs {
    /// Transactions to stream per second
    #[arg(long, default_value_t = demo::Options::default().rate)]
    rate: u64,
    /// Use this server, with the demo's own database, instead of starting one
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// Use this cluster, with the demo's own topic, instead of starting one
    #[arg(long, value_name = "HOST:PORT,…")]
    bootstrap_servers: Option<String>,
    /// The folder with the platform's programs, instead of building them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Damage something before the comparison, to see that it is found
    #[arg(long = "break", value_name = "INVARIANT", hide = true)]
    damage: Option<Damage>,
}

#[derive(Debug, Args)]
struct GenerateArgs {
    /// Number of rows
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// The same seed gives the same rows
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// csv or jsonl
    #[arg(long, value_enum, default_value = "csv")]
    format: FormatArg,
    /// Share of rows that repeat an earlier one, 0 to 1
    #[arg(long, default_value_t = 0.0)]
    duplicate_ratio: f64,
    /// Share of invalid rows, 0 to 1
    #[arg(long, default_value_t = 0.0)]
    invalid_ratio: f64,
    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormatArg {
    Csv,
    Jsonl,
}

fn main() -> ExitCode {
    let outcome = match Command::parse().command {
        Subcommands::Demo(args) => play(args),
        Subcommands::Generate(args) => write(&args).map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "lambda-lab: {}", lambda_lab::chain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// Runs the demo; false if a promise was broken.
fn play(args: DemoArgs) -> Result<bool, Failure> {
    let DemoArgs { rate, database_url, bootstrap_servers, programs, damage } = args;
    let options = demo::Options { programs, rate, damage, database_url, bootstrap_servers };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let verdict = runtime.block_on(demo::play(&options, &mut io::stdout()))?;
    Ok(verdict.holds())
}

fn write(args: &GenerateArgs) -> Result<(), Failure> {
    let format = match args.format {
        FormatArg::Csv => Format::Csv,
        FormatArg::Jsonl => Format::Json,
    };
    let traffic = Traffic {
        duplicate_ratio: args.duplicate_ratio,
        invalid_ratio: args.invalid_ratio,
        ..Traffic::default()
    };
    let mut out: Box<dyn Write> = match &args.out {
        Some(path) => Box::new(BufWriter::new(File::create(path)?)),
        None => Box::new(BufWriter::new(io::stdout().lock())),
    };
    let counts = generate::generate(args.seed, args.rows, traffic, format, &mut out)?;
    let generate::Counts { valid, duplicate, invalid } = counts;
    let _ = writeln!(
        io::stderr(),
        "{} rows: {valid} valid, {duplicate} repeated, {invalid} invalid",
        args.rows
    );
    Ok(())
}
