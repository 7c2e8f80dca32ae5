//! The documents say which test holds a promise: each such test exists, in the file
//! that is named for it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use lambda_lab::Failure;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Only what is this long is taken for a test's name.
const WORDS_MIN: usize = 4;

/// The words of all sources, by the name of their file or of its folder: names of
/// tests stand there as text or, with underscores, as functions.
fn sources(
    folder: &Path,
    name: Option<&str>,
    found: &mut BTreeMap<String, String>,
) -> Result<(), Failure> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        if path.is_dir() && stem != "target" && !stem.starts_with('.') {
            let in_tests = folder.ends_with("tests").then_some(stem.as_str());
            sources(&path, name.or(in_tests), found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = found.entry(name.unwrap_or(&stem).to_owned()).or_default();
            text.push_str(&words(&fs::read_to_string(&path)?));
        }
    }
    Ok(())
}

/// Lowercase words, each between two spaces; "its owner's" is `owners` in a function's
/// name.
fn words(text: &str) -> String {
    let text = text.replace('\'', "");
    let words = text.split(|character: char| !character.is_ascii_alphanumeric());
    let words = words.filter(|word| !word.is_empty()).map(str::to_ascii_lowercase);
    words.fold(" ".to_owned(), |text, word| text + &word + " ")
}

/// What a row cites: the file named last before it, and the test.
fn citations(row: &str) -> Vec<(Option<String>, String)> {
    let (mut file, mut found) = (None, Vec::new());
    for part in row.split("; ").flat_map(|part| part.split('|')) {
        for (index, piece) in part.split('`').enumerate() {
            if index % 2 == 1 {
                file = Path::new(piece).file_stem().and_then(|stem| stem.to_str());
                continue;
            }
            for cited in piece.split('*').skip(1).step_by(2) {
                let name = words(cited);
                if name.split_whitespace().count() >= WORDS_MIN {
                    found.push((file.map(ToOwned::to_owned), name));
                }
            }
        }
        file = None;
    }
    found
}

#[test]
fn every_test_that_a_document_cites_exists() -> Result<(), Failure> {
    let mut sources_by_file = BTreeMap::new();
    sources(Path::new(ROOT), None, &mut sources_by_file)?;
    let mut documents: Vec<PathBuf> = vec![Path::new(ROOT).join("ARCHITECTURE.md")];
    for entry in fs::read_dir(Path::new(ROOT).join("docs"))? {
        documents.push(entry?.path());
    }
    let (mut count, mut missing) = (0, Vec::new());
    for document in documents.iter().filter(|path| path.extension().is_some_and(|it| it == "md")) {
        let text = fs::read_to_string(document)?;
        for row in text.lines().filter(|line| line.starts_with('|')) {
            for (file, name) in citations(row) {
                count += 1;
                let in_file = file.as_ref().and_then(|file| sources_by_file.get(file));
                let exists = match in_file {
                    Some(text) => text.contains(&name),
                    None => sources_by_file.values().any(|text| text.contains(&name)),
                };
                if !exists {
                    let file = file.unwrap_or_else(|| "any file".into());
                    missing.push(format!("{}: not in {file}:{name}", document.display()));
                }
            }
        }
    }
    assert!(count > 100, "only {count} citations were found");
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    Ok(())
}
