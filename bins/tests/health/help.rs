//! `--help` and `--version` of every program.

use lambda_lab::Failure;
use lambda_lab::harness::{Context, Suite};
use lambda_lab::processes::Program;

use crate::DEADLINE;

/// Every program by its name and path.
const PROGRAMS: [(&str, &str); 5] = [
    ("lambda", env!("CARGO_BIN_EXE_lambda")),
    ("lambda-consumer", env!("CARGO_BIN_EXE_lambda-consumer")),
    ("lambda-csv-batch", env!("CARGO_BIN_EXE_lambda-csv-batch")),
    ("lambda-db-setup", env!("CARGO_BIN_EXE_lambda-db-setup")),
    ("lambda-producer-stream", env!("CARGO_BIN_EXE_lambda-producer-stream")),
];

/// Lines and columns of one screen.
const HEIGHT: usize = 40;
const WIDTH: usize = 100;

/// Words that plain technical English does not use, or not in this sense.
const WORDS: [&str; 18] = [
    "during",
    "anew",
    "at hand",
    "beneath",
    "for ever",
    "forever",
    "goes on",
    "hence",
    "lest",
    "meanwhile",
    "nobody",
    "somebody",
    "stands",
    "tells",
    "told",
    "whoever",
    "whom",
    "whose",
];

pub(super) fn tests(suite: &mut Suite) {
    suite.plain("every help fits one screen, in plain words", helps);
    suite.plain("every program gives its own name and version", versions);
}

async fn helps(context: Context) -> Result<(), Failure> {
    let mut commands: Vec<(String, Program)> =
        PROGRAMS.map(|(name, path)| (name.to_owned(), context.program(path))).into();
    let mut read = 0;
    while let Some((name, program)) = commands.pop() {
        let help = program.clone().arg("--help").run(DEADLINE).await?.expect_code(0)?.stdout;
        assert!(help.lines().count() <= HEIGHT, "{name} is too long:\n{help}");
        let too_wide = help.lines().find(|line| line.chars().count() > WIDTH);
        assert_eq!(too_wide, None, "{name} is too wide:\n{help}");
        let plain = format!(" {} ", words(&help));
        for word in WORDS {
            assert!(!plain.contains(&format!(" {word} ")), "{name} says {word:?}:\n{help}");
        }
        let short = program.clone().arg("-h").run(DEADLINE).await?.expect_code(0)?.stdout;
        assert_eq!(short, help, "-h and --help of {name} are the same");
        for command in subcommands(&help) {
            commands.push((format!("{name} {command}"), program.clone().arg(command)));
        }
        read += 1;
    }
    // 5 programs, 6 commands of lambda, and 5 + 3 + 1 + 6 of these.
    assert_eq!(read, 26);
    Ok(())
}

/// Lowercase words, separated by single spaces.
fn words(text: &str) -> String {
    let words = text.split(|character: char| !character.is_alphanumeric());
    let words: Vec<String> = words.filter(|word| !word.is_empty()).map(str::to_lowercase).collect();
    words.join(" ")
}

/// The names under "Commands:" in a help.
fn subcommands(help: &str) -> impl Iterator<Item = &str> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| line.starts_with("  "));
    listed.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help")
}

async fn versions(context: Context) -> Result<(), Failure> {
    for (name, path) in PROGRAMS {
        let version = context.program(path).arg("--version");
        let version = version.run(DEADLINE).await?.expect_code(0)?.stdout;
        assert_eq!(version, format!("{name} {}\n", env!("CARGO_PKG_VERSION")));
    }
    Ok(())
}
