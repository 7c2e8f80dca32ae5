//! Moving a file away once its job is completed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use lambda_core::Error;

use crate::content::Content;
use crate::input::{Input, is_same};

/// Makes sure, before anything is loaded, that `inputs` can be moved into `folder`.
///
/// # Errors
/// `Fatal` if it cannot be created or written, or one of them lies there already.
pub(crate) fn prepare(folder: &Path, inputs: &[Input]) -> Result<(), Error> {
    let lies_there = |input: &&Input| {
        // A bare name has an empty one.
        let parent = input.path().and_then(Path::parent);
        parent.is_some_and(|parent| is_same(&Path::new(".").join(parent), folder))
    };
    if let Some(input) = inputs.iter().find(lies_there) {
        return Err(Error::misconfigured(
            format!("{input} lies in {} already", folder.display()),
            "name another folder for --archive",
        ));
    }
    let nameless = || tempfile::tempfile_in(folder).map(drop);
    fs::create_dir_all(folder).and_then(|()| nameless()).map_err(|error| Error::Misconfigured {
        what: format!("files cannot be moved to {}", folder.display()),
        remedy: "name a folder for --archive that this user may write".into(),
        source: Some(Box::new(error)),
    })
}

/// Moves a loaded file into `folder`, on the same file system or another one, and
/// tells where it is now. A name that is taken gets a number. Standard input, a
/// file that was put in the place of the one that was loaded, and one that has
/// become another one since stay: the next run is to find what is not stored.
///
/// # Errors
/// `Fatal` if the file cannot be moved; it is then still where it was.
pub(crate) fn archive(content: &Content, folder: &Path) -> Result<Option<PathBuf>, Error> {
    let Some(path) = content.input().path() else { return Ok(None) };
    if !content.is_at(path) {
        tracing::warn!(file = %path.display(), "not archived: another file was put in its place");
        return Ok(None);
    }
    if content.unchanged().is_err() {
        tracing::warn!(file = %path.display(), "not archived: it was changed after it was loaded");
        return Ok(None);
    }
    let moved = place(path, folder).and_then(|to| match move_over(path, &to) {
        Ok(()) => Ok(to),
        Err(error) => {
            let _ = fs::remove_file(&to);
            Err(error)
        }
    });
    moved.map(Some).map_err(|error| Error::Misconfigured {
        what: format!("{} cannot be moved to {}", path.display(), folder.display()),
        remedy: "its job is completed: make the folder writable, or move the file by hand".into(),
        source: Some(Box::new(error)),
    })
}

/// A name in `folder` that was not taken, now by an empty file: two runs that look
/// at once do not find the same one.
fn place(path: &Path, folder: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let mut number = 0;
    loop {
        let mut free = name.to_owned();
        if number > 0 {
            free.push(format!(".{number}"));
        }
        let to = folder.join(free);
        match File::create_new(&to) {
            Ok(_) => return Ok(to),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
        }
    }
}

fn move_over(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            copy(from, to).and_then(|()| fs::remove_file(from))
        }
        renamed => renamed,
    }
}

/// Copies under a name that no run takes for a finished file, until it is one.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut unfinished = to.as_os_str().to_owned();
    unfinished.push(".part");
    let unfinished = PathBuf::from(unfinished);
    fs::copy(from, &unfinished)?;
    File::open(&unfinished)?.sync_all()?;
    fs::rename(&unfinished, to)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_moved_and_never_over_another_one() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = from.path().join("a.csv");
        for text in ["first", "second"] {
            fs::write(&path, text).unwrap();
            let content = Content::open(&Input::File(path.clone())).unwrap();
            assert!(archive(&content, to.path()).unwrap().is_some());
            assert!(!path.exists());
        }
        assert_eq!(fs::read_to_string(to.path().join("a.csv")).unwrap(), "first");
        assert_eq!(fs::read_to_string(to.path().join("a.csv.1")).unwrap(), "second");
    }

    #[test]
    fn a_file_put_in_the_place_of_the_loaded_one_stays() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = from.path().join("a.csv");
        fs::write(&path, "loaded").unwrap();
        let content = Content::open(&Input::File(path.clone())).unwrap();
        fs::write(from.path().join("b.csv"), "newer").unwrap();
        fs::rename(from.path().join("b.csv"), &path).unwrap();
        assert_eq!(archive(&content, to.path()).unwrap(), None);
        assert_eq!(fs::read_to_string(&path).unwrap(), "newer");
    }

    #[test]
    fn a_copy_is_whole_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&from, "text").unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "text");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
