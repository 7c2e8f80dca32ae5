//! Moves a file to the archive once its job is completed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use lambda_core::Error;
use tempfile::NamedTempFile;

use crate::content::Content;
use crate::input::{Input, is_same};

/// Checks, before anything is loaded, that `inputs` can be moved into `folder`.
///
/// # Errors
/// `Fatal` if it cannot be created or written, or already holds one of them.
pub(crate) fn prepare(folder: &Path, inputs: &[Input]) -> Result<(), Error> {
    let lies_there = |input: &&Input| {
        // A bare name has an empty parent.
        let parent = input.path().and_then(Path::parent);
        parent.is_some_and(|parent| is_same(&Path::new(".").join(parent), folder))
    };
    if let Some(input) = inputs.iter().find(lies_there) {
        return Err(Error::misconfigured(
            format!("{input} is already in {}", folder.display()),
            "name another folder for --archive",
        ));
    }
    let nameless = || tempfile::tempfile_in(folder).map(drop);
    fs::create_dir_all(folder).and_then(|()| nameless()).map_err(|error| Error::Misconfigured {
        what: format!("could not write to the archive {}", folder.display()),
        remedy: "name a folder for --archive that this user may write".into(),
        source: Some(Box::new(error)),
    })
}

/// Moves a loaded file into `folder`, on the same file system or another one, and
/// returns its new path. A name that is taken gets a number. Leaves standard input and
/// files on a read-only file system where they are. Also leaves a file that replaced the
/// loaded one or was changed since, so that the next run loads what is not stored, and a
/// file that another run has already moved.
///
/// # Errors
/// `Fatal` if the file cannot be moved; it is then still where it was.
pub(crate) fn archive(content: &Content, folder: &Path) -> Result<Option<PathBuf>, Error> {
    let Some(path) = content.input().path() else { return Ok(None) };
    if !is_loaded(content, path) {
        return Ok(None);
    }
    let failed = |error: io::Error| Error::Misconfigured {
        what: format!("{}: could not move it to {}", path.display(), folder.display()),
        remedy: "its job is completed: make the folder writable, or move the file by hand".into(),
        source: Some(Box::new(error)),
    };
    let to = place(path, folder).map_err(failed)?;
    match fs::rename(path, &to) {
        Ok(()) if is_loaded(content, &to) => Ok(Some(to)),
        Ok(()) => put_back(path, &to).map(|()| None),
        Err(error) => {
            let moved = match error.kind() {
                io::ErrorKind::CrossesDevices => copy_over(content, path, folder, &to),
                io::ErrorKind::NotFound if content.input().is_gone() => Ok(false),
                _ => Err(error),
            };
            if !matches!(moved, Ok(true)) {
                let _ = fs::remove_file(&to);
            }
            moved.map(|moved| moved.then_some(to)).map_err(failed)
        }
    }
}

/// Whether `path` still holds the loaded content; logs why not.
fn is_loaded(content: &Content, path: &Path) -> bool {
    if path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        tracing::info!(file = %content.input(), "not archived: it was moved away");
        return false;
    }
    let why = if !content.is_at(path) {
        "another file has replaced it"
    } else if content.unchanged().is_err() {
        "it changed after it was loaded"
    } else {
        return true;
    };
    tracing::warn!(file = %content.input(), "not archived: {why}");
    false
}

/// Moves a file that was archived but not loaded from `to` back to `path`, where the next
/// run finds it, unless `path` is taken by now.
fn put_back(path: &Path, to: &Path) -> Result<(), Error> {
    // A link, unlike a rename, never replaces a file.
    let back = fs::hard_link(to, path).and_then(|()| fs::remove_file(to));
    back.map_err(|error| Error::Misconfigured {
        what: format!(
            "{} was replaced while it was archived; the new file is now {} and was not loaded",
            path.display(),
            to.display()
        ),
        remedy: "move it back by hand and load it".into(),
        source: Some(Box::new(error)),
    })
}

/// Reserves a free name in `folder` with an empty file, so that two concurrent runs do not
/// take the same name.
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

/// Moves to another file system. Returns false if the file at `from` is no longer the
/// loaded one, or cannot be removed.
fn copy_over(content: &Content, from: &Path, folder: &Path, to: &Path) -> io::Result<bool> {
    let copied = match copy(from, folder) {
        Err(_) if content.input().is_gone() => return Ok(false),
        copied => copied?,
    };
    if !is_loaded(content, from) {
        return Ok(false);
    }
    copied.persist(to)?;
    File::open(folder)?.sync_all()?;
    // The file may have been replaced during the sync.
    if !is_loaded(content, from) {
        return Ok(false);
    }
    match fs::remove_file(from) {
        // Another run has moved it too: two copies are better than none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        // Such as a mounted ConfigMap, which is not meant to be moved.
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            let file = content.input();
            tracing::info!(%file, "not archived: it is on a read-only file system");
            Ok(false)
        }
        removed => removed.map(|()| true),
    }
}

/// Copies to a temporary file, under a name that no run loads. The file is deleted unless
/// it is renamed.
fn copy(from: &Path, folder: &Path) -> io::Result<NamedTempFile> {
    let mut from = File::open(from)?;
    let mut copied = tempfile::Builder::new().prefix(".").suffix(".part").tempfile_in(folder)?;
    io::copy(&mut from, &mut copied)?;
    copied.as_file().set_permissions(from.metadata()?.permissions())?;
    copied.as_file().sync_all()?;
    Ok(copied)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_moved_and_replaces_no_other() {
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
    fn a_file_that_another_run_moved_away_is_no_error() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = from.path().join("a.csv");
        fs::write(&path, "loaded").unwrap();
        let content = Content::open(&Input::File(path.clone())).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(archive(&content, to.path()).unwrap(), None);
        // As if it disappeared after the check.
        let there = to.path().join("a.csv");
        assert!(!copy_over(&content, &path, to.path(), &there).unwrap());
        assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
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
    fn a_file_that_replaces_the_loaded_one_as_that_is_moved_is_put_back() {
        let folder = tempfile::tempdir().unwrap();
        let (path, to) = (folder.path().join("a.csv"), folder.path().join("archived"));
        fs::write(&to, "newer").unwrap();
        put_back(&path, &to).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "newer");
        assert!(!to.exists());

        fs::write(&to, "between").unwrap();
        let error = put_back(&path, &to).unwrap_err();
        assert!(error.to_string().contains("was not loaded"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "newer");
        assert_eq!(fs::read_to_string(&to).unwrap(), "between");
    }

    #[test]
    fn a_copy_is_whole_and_leaves_nothing_beside_it() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = from.path().join("a.csv");
        fs::write(&path, "text").unwrap();
        let content = Content::open(&Input::File(path.clone())).unwrap();
        let there = place(&path, to.path()).unwrap();
        assert!(copy_over(&content, &path, to.path(), &there).unwrap());
        assert!(!path.exists());
        assert_eq!(fs::read_to_string(there).unwrap(), "text");
        assert_eq!(fs::read_dir(to.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_replaced_or_written_while_it_is_copied_stays() {
        type Change = fn(&Path);
        let changes: [Change; 2] = [
            |path| {
                fs::write(path.with_extension("new"), "newer").unwrap();
                fs::rename(path.with_extension("new"), path).unwrap();
            },
            |path| fs::write(path, "longer than before").unwrap(),
        ];
        for change in changes {
            let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let path = from.path().join("a.csv");
            fs::write(&path, "loaded").unwrap();
            let content = Content::open(&Input::File(path.clone())).unwrap();
            change(&path);
            let there = to.path().join("a.csv");
            assert!(!copy_over(&content, &path, to.path(), &there).unwrap());
            assert_ne!(fs::read_to_string(&path).unwrap(), "loaded");
            assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_copy_that_fails_leaves_nothing_behind() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        // A folder can be opened and not be read.
        copy(from.path(), to.path()).unwrap_err();
        assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
    }
}
