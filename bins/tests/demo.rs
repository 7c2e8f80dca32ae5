//! The demo finds the violations that it claims to find.

use std::path::Path;
use std::process::ExitCode;

use lambda_lab::Failure;
use lambda_lab::demo::{Damage, Options, play};
use lambda_lab::harness::Context;

fn main() -> ExitCode {
    lambda_lab::harness::main(|suite| {
        suite.deadline(180);
        // Always on its own servers, since it must see the processes' connections.
        suite.plain("a row lost during the demo breaks one promise and no other", lost_row);
    })
}

async fn lost_row(_: Context) -> Result<(), Failure> {
    let programs = Path::new(env!("CARGO_BIN_EXE_lambda-consumer")).parent().map(Path::to_owned);
    let options = Options { programs, damage: Some(Damage::LostRow), ..Options::default() };
    let mut told = Vec::new();
    let verdict = play(&options, &mut told).await?;
    let told = String::from_utf8(told)?;
    assert!(!verdict.holds(), "{told}");
    let broken: Vec<&str> =
        verdict.checks().iter().filter(|check| !check.holds).map(|check| check.promise).collect();
    assert_eq!(broken, ["every valid transaction is one row, and there is no other"], "{told}");
    for part in [
        "inside COPY",
        "killed",
        "taken over",
        "nothing was written",
        "was corrected to",
        "1 of 1 replayed, 1 inserted",
    ] {
        assert!(told.contains(part), "{part} is missing:\n{told}");
    }
    Ok(())
}
