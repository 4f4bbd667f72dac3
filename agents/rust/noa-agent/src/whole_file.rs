//! Files that are there whole or not at all. Owns the names of those that are not finished, so that none of them stays
//! when the process ends.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::lock::lock;

static UNFINISHED: Mutex<Unfinished> = Mutex::new(Unfinished { paths: BTreeSet::new(), ending: false });

struct Unfinished {
    paths: BTreeSet<PathBuf>,
    ending: bool,
}

/// Removes what is being written. From here on nothing is begun or kept: for the end of the process.
pub(crate) fn remove_unfinished() {
    let mut unfinished = lock(&UNFINISHED);
    unfinished.ending = true;
    for path in std::mem::take(&mut unfinished.paths) {
        let _ = fs::remove_file(path); // Its folder may be gone.
    }
}

/// A file that appears under its name whole and on disk, or not at all: written under another name beside it, which
/// begins with `.tmp-`. Without [`keep`](Self::keep) nothing of it stays, also when the agent is told to end meanwhile.
#[derive(Debug)]
pub struct WholeFile {
    temporary: PathBuf,
    file: File,
}

impl WholeFile {
    /// Begins a file in this folder, which is created if it is not there.
    ///
    /// # Errors
    /// The folder cannot be created or written, or the agent is ending.
    pub fn begin(folder: impl AsRef<Path>) -> io::Result<Self> {
        let folder = folder.as_ref();
        fs::create_dir_all(folder)?;
        let temporary = folder.join(format!(".tmp-{}-{:016x}", std::process::id(), random()));
        let mut unfinished = lock(&UNFINISHED);
        unfinished.check()?;
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
        unfinished.paths.insert(temporary.clone());
        Ok(Self { temporary, file })
    }

    /// Syncs what was written and gives it its name, in the place of what had it before. The target's folder is created
    /// if it is not there; it must be on the same file system.
    ///
    /// # Errors
    /// The target cannot be written, or the agent is ending; nothing is left behind.
    pub fn keep(self, target: impl AsRef<Path>) -> io::Result<()> {
        self.file.sync_all()?;
        let target = target.as_ref();
        let folder = target.parent().ok_or_else(|| io::Error::other("the target has no folder"))?;
        fs::create_dir_all(folder)?;
        {
            let mut unfinished = lock(&UNFINISHED);
            unfinished.check()?;
            fs::rename(&self.temporary, target)?;
            unfinished.paths.remove(&self.temporary);
        }
        File::open(folder)?.sync_all()
    }
}

impl Unfinished {
    fn check(&self) -> io::Result<()> {
        if self.ending { Err(io::Error::other("the agent is ending")) } else { Ok(()) }
    }
}

impl Write for WholeFile {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        self.file.write(content)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if lock(&UNFINISHED).paths.remove(&self.temporary) {
            let _ = fs::remove_file(&self.temporary); // Its folder may be gone.
        }
    }
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_in(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_that_is_kept_has_its_name_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = WholeFile::begin(folder.path()).unwrap();
        file.write_all(b"abc").unwrap();
        assert!(names_in(folder.path())[0].starts_with(".tmp-"));
        file.keep(folder.path().join("below/name")).unwrap();
        assert_eq!(fs::read(folder.path().join("below/name")).unwrap(), b"abc");
        assert_eq!(names_in(folder.path()), ["below"]);
    }

    #[test]
    fn a_file_that_is_dropped_or_cannot_be_kept_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        drop(WholeFile::begin(folder.path()).unwrap());
        fs::create_dir(folder.path().join("taken")).unwrap();
        assert!(WholeFile::begin(folder.path()).unwrap().keep(folder.path().join("taken")).is_err());
        assert_eq!(names_in(folder.path()), ["taken"]);
    }
}
