//! Finds the files of a run: paths, folders, globs and standard input, as named on a
//! command line.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use lambda_core::Error;

/// Prefixes of names that are no input: hidden files, and markers of other programs.
const PREFIXES: [&str; 2] = [".", "_"];

/// Suffixes of names that are no input: files that are still being written, and files of
/// editors.
const SUFFIXES: [&str; 5] = [".part", ".filepart", ".tmp", ".swp", "~"];

/// One input to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Input {
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

impl Input {
    /// The file's path, unless it is standard input.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Stdin => None,
        }
    }

    /// Whether the file existed when it was found and is gone now. A link that leads nowhere
    /// still exists.
    pub(crate) fn is_gone(&self) -> bool {
        let there = |path: &Path| path.symlink_metadata();
        let gone = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
        self.path().is_some_and(|path| there(path).is_err_and(gone))
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Stdin => f.write_str("standard input"),
        }
    }
}

/// Finds the files that `arguments` name: files, folders (their files, not their
/// subfolders), glob patterns, and `-` for standard input. Arguments keep their order,
/// files of a folder or a pattern are sorted by name, and a file named twice counts once.
/// Folders and patterns may be empty. Names of unfinished files and of other programs'
/// files are always left out, since a shell resolves patterns too. Anything but a regular
/// file is left out of folders and patterns, but can be named.
///
/// ```
/// use lambda_batch::input::{Input, resolve};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// for name in ["b.csv", "a.csv.gz", "c.csv.part"] {
///     std::fs::write(folder.join(name), "")?;
/// }
/// let found = resolve(&[folder.display().to_string(), "-".into()])?;
/// let expected = ["a.csv.gz", "b.csv"].map(|name| Input::File(folder.join(name)));
/// assert_eq!(found[..2], expected, "c.csv.part is still being written");
/// assert_eq!(found[2..], [Input::Stdin]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `Fatal` for a path that does not exist or cannot be read, and for an invalid pattern.
pub fn resolve<A: AsRef<str>>(arguments: &[A]) -> Result<Vec<Input>, Error> {
    let mut inputs = Vec::new();
    for argument in arguments {
        let argument = argument.as_ref();
        let path = Path::new(argument);
        let found = if argument == "-" {
            vec![Input::Stdin]
        } else if path.is_dir() {
            files(folder(path)?)
        } else if path.exists() {
            named(path)
        } else if argument.contains(['*', '?', '[']) {
            files(pattern(argument)?)
        } else {
            return Err(Error::misconfigured(
                format!("{argument} does not exist"),
                "name a file, a folder, a pattern such as 'in/*.csv', or - for standard input",
            ));
        };
        for input in found {
            if !inputs.contains(&input) {
                inputs.push(input);
            }
        }
    }
    Ok(inputs)
}

/// A file named directly.
fn named(path: &Path) -> Vec<Input> {
    // Hidden files are left out of folders only: shells do not resolve to them.
    match unwanted(path).filter(|part| *part != ".") {
        Some(part) => {
            tracing::warn!(file = %path.display(), "not loaded: names with {part} are not input");
            Vec::new()
        }
        None => vec![Input::File(path.to_owned())],
    }
}

/// Keeps those paths of a folder or pattern that are input.
fn files(paths: Vec<PathBuf>) -> Vec<Input> {
    let is_input = |path: &PathBuf| {
        let why = match unwanted(path) {
            Some(".") => return false,
            Some(_) => "it is not finished, or not meant to be loaded",
            // Follows links: a mounted volume's files are links. A link that leads nowhere fails
            // when it is opened.
            None if path.metadata().is_ok_and(|metadata| !metadata.is_file()) => {
                "it is not a regular file"
            }
            None => return true,
        };
        tracing::info!(file = %path.display(), "left out: {why}");
        false
    };
    paths.into_iter().filter(is_input).map(Input::File).collect()
}

/// The part of its name that makes a file no input.
fn unwanted(path: &Path) -> Option<&'static str> {
    let name = path.file_name()?.as_encoded_bytes();
    let prefix = PREFIXES.into_iter().find(|prefix| name.starts_with(prefix.as_bytes()));
    prefix.or_else(|| SUFFIXES.into_iter().find(|suffix| name.ends_with(suffix.as_bytes())))
}

fn folder(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut paths = Vec::new();
    for entry in path.read_dir().map_err(|error| unreadable(path, error))? {
        let path = entry.map_err(|error| unreadable(path, error))?.path();
        if !path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn pattern(text: &str) -> Result<Vec<PathBuf>, Error> {
    let paths = glob::glob(text).map_err(|error| Error::Misconfigured {
        what: format!("{text} is not a valid pattern"),
        remedy: "use * ? and [...] as a shell does".into(),
        source: Some(Box::new(error)),
    })?;
    let mut found = Vec::new();
    for path in paths {
        let path = path.map_err(|error| {
            let path = error.path().to_owned();
            unreadable(&path, error.into())
        })?;
        if !path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Whether two paths lead to one file or folder, under any names.
pub(crate) fn is_same(one: &Path, other: &Path) -> bool {
    match (one.metadata(), other.metadata()) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

/// A path that cannot be read.
pub(crate) fn unreadable(path: &Path, error: io::Error) -> Error {
    Error::Misconfigured {
        what: format!("could not read {}", path.display()),
        remedy: "check that it exists and that this user may read it".into(),
        source: Some(Box::new(error)),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use std::fs;

    use super::*;

    fn names(inputs: &[Input]) -> Vec<String> {
        let name = |input: &Input| match input.path() {
            Some(path) => path.file_name().unwrap().to_str().unwrap().to_owned(),
            None => input.to_string(),
        };
        inputs.iter().map(name).collect()
    }

    #[test]
    fn a_folder_gives_its_finished_files_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let others = [
            ".hidden",
            "_SUCCESS",
            "c.csv.part",
            "c.csv.filepart",
            "c.csv.tmp",
            ".c.csv.swp",
            "c.csv.swp",
            "c.csv~",
        ];
        for name in ["b.csv", "a.csv.gz"].iter().chain(&others) {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::create_dir(folder.path().join("archive")).unwrap();
        let socket = folder.path().join("socket.csv");
        let _socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        for all in [at(""), at("*")] {
            assert_eq!(names(&resolve(&[all]).unwrap()), ["a.csv.gz", "b.csv"]);
        }
        // As a shell resolves a pattern, which leaves hidden files out itself.
        let by_shell: Vec<String> =
            others.iter().filter(|name| !name.starts_with('.')).map(|name| at(name)).collect();
        assert_eq!(resolve(&by_shell).unwrap(), []);
        assert_eq!(names(&resolve(&[at(".hidden"), at("socket.csv")]).unwrap()).len(), 2);
    }

    #[test]
    fn patterns_files_and_standard_input_keep_their_order_and_count_once() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["1.csv", "2.csv", "x.csv.part"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let inputs = resolve(&[at("2.csv"), "-".into(), at("*.csv*"), "-".into()]).unwrap();
        assert_eq!(names(&inputs), ["2.csv", "standard input", "1.csv"]);
    }

    #[test]
    fn an_empty_folder_is_no_error_and_a_missing_file_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        assert_eq!(resolve(&[at(""), at("*.csv")]).unwrap(), []);
        let missing = resolve(&[at("missing.csv")]).unwrap_err();
        assert_eq!(missing.exit_code(), 78);
        assert!(missing.to_string().ends_with("missing.csv does not exist"));
    }
}
