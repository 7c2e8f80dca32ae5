//! Checks what the repository says about itself: each test that a document cites exists in
//! the file named for it, each cited rule is a heading of `docs/protocol.md`, tables have short
//! cells, and the libraries' READMEs list their features.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use lambda_lab::Failure;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Words of the shortest title; shorter texts in italics are emphasis.
const WORDS_MIN: usize = 4;

/// Longest cell of a table. Longer text needs a section.
const CELL_MAX: usize = 120;

/// Folders of the repository's root with files that are not ours.
const SKIPPED: [&str; 3] = ["target", ".git", ".terraform"];

/// A text file.
struct Text {
    path: PathBuf,
    text: String,
}

impl Text {
    fn is(&self, extension: &str) -> bool {
        self.path.extension().is_some_and(|it| it == extension)
    }

    fn is_named(&self, name: &str) -> bool {
        self.path.ends_with(name)
    }

    /// The lines outside of code blocks, with their numbers.
    fn prose(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut in_code = false;
        self.text.lines().enumerate().filter_map(move |(index, line)| {
            let fence = line.trim_start().starts_with("```");
            in_code ^= fence;
            (!in_code && !fence).then_some((index + 1, line))
        })
    }
}

/// All text files of the repository.
fn repository() -> Result<Vec<Text>, Failure> {
    let (mut folders, mut found) = (vec![PathBuf::from(ROOT)], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if SKIPPED.iter().any(|skipped| path.ends_with(skipped)) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = String::from_utf8(fs::read(&path)?) {
                found.push(Text { path: path.strip_prefix(ROOT)?.to_owned(), text });
            }
        }
    }
    Ok(found)
}

/// The words of all sources, by the name of the file, of its folder in `tests`, or of the module
/// whose `tests.rs` it is. They contain test titles as text or, with underscores, as functions.
fn sources(repository: &[Text]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::<String, String>::new();
    for source in repository.iter().filter(|text| text.is("rs")) {
        let mut folders = source.path.iter().skip_while(|folder| *folder != "tests").skip(1);
        let of_module = source.path.parent().filter(|_| source.is_named("tests.rs"));
        let name = folders.next().or(of_module.unwrap_or(&source.path).file_name()).map(Path::new);
        let name = name.and_then(Path::file_stem).unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        found.entry(name).or_default().push_str(&words(&source.text));
    }
    found
}

/// Lowercase words, each between two spaces; "its owner's" is `owners` in a function's
/// name.
fn words(text: &str) -> String {
    let text = text.replace('\'', "");
    let words = text.split(|character: char| !character.is_ascii_alphanumeric());
    let words = words.filter(|word| !word.is_empty()).map(str::to_ascii_lowercase);
    words.fold(" ".to_owned(), |text, word| text + &word + " ")
}

/// The tests that a row of a table or an item of a list cites, as "`file` *test*, *test*".
fn tests_cited(line: &str) -> Vec<(String, String)> {
    let (mut file, mut found) = (None, Vec::new());
    for (index, piece) in line.split('`').enumerate() {
        if index % 2 == 1 {
            file = piece.rsplit("::").next();
            continue;
        }
        for cited in piece.split('*').skip(1).step_by(2) {
            let name = words(cited);
            if let Some(file) = file
                && name.split_whitespace().count() >= WORDS_MIN
            {
                found.push((file.to_owned(), name));
            }
        }
    }
    found
}

/// The rules that a text cites: `R`, a number, and an optional letter.
fn rules_cited(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|character: char| !character.is_alphanumeric() && character != '_');
    words.filter(|word| {
        let number = word.strip_prefix('R').unwrap_or_default();
        let number = number.strip_suffix(|last: char| last.is_ascii_lowercase()).unwrap_or(number);
        !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
    })
}

/// The name under which a page links a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|it| it.is_alphanumeric() || " -_".contains(*it));
    kept.map(|it| if it == ' ' { '-' } else { it.to_ascii_lowercase() }).collect()
}

/// A text as a reader sees it: only the words of a link.
fn shown(text: &str) -> String {
    let mut parts = text.split("](");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once(')').map_or(part, |(_, rest)| rest))
}

fn none_of(found: &[String]) {
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_test_that_a_document_cites_exists() -> Result<(), Failure> {
    let repository = repository()?;
    let sources = sources(&repository);
    let (mut count, mut missing) = (0, Vec::new());
    for document in repository.iter().filter(|text| text.is("md")) {
        for (number, line) in document.prose() {
            if !line.starts_with('|') && !line.trim_start().starts_with("- `") {
                continue;
            }
            for (file, name) in tests_cited(line) {
                count += 1;
                if !sources.get(&file).is_some_and(|text| text.contains(&name)) {
                    let path = document.path.display();
                    missing.push(format!("{path}:{number}: not in {file}.rs:{name}"));
                }
            }
        }
    }
    assert!(count > 200, "only {count} citations were found");
    none_of(&missing);
    Ok(())
}

#[test]
fn every_rule_that_is_cited_is_a_heading_of_the_protocol() -> Result<(), Failure> {
    let repository = repository()?;
    let protocol = repository.iter().find(|text| text.is_named("docs/protocol.md"));
    let protocol = protocol.ok_or("docs/protocol.md is missing")?;
    let headings: Vec<&str> =
        protocol.prose().filter_map(|(_, line)| line.split_once("# ")).map(|it| it.1).collect();
    let rules: BTreeSet<&str> = headings.iter().filter_map(|it| it.split(' ').next()).collect();
    let anchors: BTreeSet<String> = headings.iter().map(|heading| anchor(heading)).collect();
    let (mut count, mut unknown) = (0, Vec::new());
    for text in &repository {
        for (index, line) in text.text.lines().enumerate() {
            let place = format!("{}:{}", text.path.display(), index + 1);
            for rule in rules_cited(line) {
                count += 1;
                if !rules.contains(rule) {
                    unknown.push(format!("{place}: there is no rule {rule}"));
                }
            }
            for link in line.split("protocol.md#").skip(1) {
                let end = link.find(|it: char| !it.is_alphanumeric() && !"-_".contains(it));
                let link = link.get(..end.unwrap_or(link.len())).unwrap_or_default();
                if !link.is_empty() && !anchors.contains(link) {
                    unknown.push(format!("{place}: no heading is {link}"));
                }
            }
        }
    }
    assert!(count > 27, "only {count} citations of rules were found");
    none_of(&unknown);
    Ok(())
}

/// Words that technical prose in English does without, and what to write instead.
const UNUSUAL: [(&str, &str); 10] = [
    ("amid", "during"),
    ("anew", "again"),
    ("at hand", "current"),
    ("beneath", "below"),
    ("hence", "so"),
    ("lest", "so that … not"),
    ("meanwhile", "at the same time"),
    ("nobody", "no process, no user"),
    ("whoever", "the process that"),
    ("whom", "which"),
];

/// The prose of a line: all of a document's, the comment of a source's.
fn prose<'a>(text: &Text, line: &'a str) -> Option<&'a str> {
    match text.path.extension()?.to_str()? {
        "md" => Some(line),
        "rs" => line.trim_start().strip_prefix("//"),
        "sh" | "toml" | "yaml" | "tf" => line.trim_start().strip_prefix('#'),
        _ => None,
    }
}

#[test]
fn prose_has_no_unusual_words_and_no_bare_rule_numbers() -> Result<(), Failure> {
    let mut found = Vec::new();
    for text in repository()? {
        for (index, line) in text.text.lines().enumerate() {
            let Some(prose) = prose(&text, line) else { continue };
            let place = format!("{}:{}", text.path.display(), index + 1);
            let spoken = words(prose);
            for (word, better) in UNUSUAL {
                if spoken.contains(&format!(" {word} ")) {
                    found.push(format!("{place}: {word:?}, better {better:?}"));
                }
            }
            if text.is("rs") && prose.contains("(R") && rules_cited(prose).next().is_some() {
                found.push(format!("{place}: a rule's number without words"));
            }
        }
    }
    none_of(&found);
    Ok(())
}

/// The page from which the rules came is not in the repository.
#[test]
fn no_file_names_a_page_that_does_not_exist() -> Result<(), Failure> {
    const PAGE: &str = concat!("DES", "IGN");
    let repository = repository()?;
    let speaks = repository.iter().filter(|text| text.text.contains(PAGE));
    none_of(&speaks.map(|text| text.path.display().to_string()).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn cells_of_tables_are_short() -> Result<(), Failure> {
    let mut long = Vec::new();
    for document in repository()?.iter().filter(|text| text.is("md")) {
        // The output of a run stays as printed.
        if document.is_named("RESULTS.md") {
            continue;
        }
        for (number, line) in document.prose().filter(|(_, line)| line.starts_with('|')) {
            for cell in line.split('|').map(|cell| shown(cell.trim())) {
                let length = cell.chars().count();
                if length > CELL_MAX {
                    let path = document.path.display();
                    long.push(format!("{path}:{number}: {length} characters: {cell}"));
                }
            }
        }
    }
    none_of(&long);
    Ok(())
}

/// Folders of the crates that are libraries for others.
const LIBRARIES: [&str; 4] = ["lambda-core", "lambda-core/derive", "lambda-stream", "lambda-batch"];

/// The lines of a text from the one that is `heading` to the next that begins with `end`.
fn section<'t>(text: &'t str, heading: &str, end: char) -> impl Iterator<Item = &'t str> {
    let lines = text.lines().skip_while(move |line| *line != heading).skip(1);
    lines.take_while(move |line| !line.starts_with(end))
}

/// The features of a manifest, with whether they are enabled by default.
fn features(manifest: &str) -> BTreeMap<&str, bool> {
    let lines = || section(manifest, "[features]", '[').filter_map(|line| line.split_once(" = "));
    let default = lines().find(|(name, _)| *name == "default").map_or("", |(_, list)| list);
    let named = lines().map(|(name, _)| name).filter(|name| *name != "default");
    named.map(|name| (name, default.contains(&format!("\"{name}\"")))).collect()
}

/// The same from the table of a README: `| name in backquotes | yes, or nothing | text |`.
fn features_listed(readme: &str) -> BTreeMap<&str, bool> {
    let rows = section(readme, "## Features", '#').filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| {
        let (name, rest) = row.split_once("` |")?;
        Some((name, rest.split('|').next()?.trim() == "yes"))
    })
    .collect()
}

#[test]
fn each_library_lists_its_features_and_has_the_licences() -> Result<(), Failure> {
    let read = |path: String| fs::read_to_string(format!("{ROOT}/{path}"));
    let mut count = 0;
    for library in LIBRARIES {
        let manifest = read(format!("{library}/Cargo.toml"))?;
        let readme = read(format!("{library}/README.md"))?;
        count += features(&manifest).len();
        assert_eq!(features_listed(&readme), features(&manifest), "{library}");
        for licence in ["LICENSE-APACHE", "LICENSE-MIT"] {
            let same = read(format!("{library}/{licence}"))? == read(licence.into())?;
            assert!(same, "{library}/{licence} is not a copy of the repository's");
        }
    }
    assert!(count > 9, "only {count} features were found");
    Ok(())
}
