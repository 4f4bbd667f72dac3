//! Finds the regular files of a folder, always in the same order: depth first, names sorted as bytes, files and
//! folders in one order.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What to look at.
pub struct Walk {
    pub max_files: usize,
    pub follow_links: bool,
    /// Names of folders that are passed over.
    pub exclude: HashSet<OsString>,
}

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Bytes of each file, in order.
    pub sizes: Vec<u64>,
    /// Entries that could not be looked at.
    pub unreadable: u64,
}

impl Walk {
    /// Walks through a folder. `step` is asked before each entry, with what is found so far, whether to go on.
    ///
    /// Fails when the folder itself cannot be read or `step` fails; what cannot be read below it is counted.
    pub fn run<E: From<io::Error>>(
        &self,
        folder: &Path,
        mut step: impl FnMut(&Found) -> Result<(), E>,
    ) -> Result<Found, E> {
        let mut found = Found::default();
        let mut entered = HashSet::from([identity(&fs::metadata(folder)?)]);
        let mut open = vec![sorted(folder)?.into_iter()];
        while let Some(entries) = open.last_mut() {
            let Some(entry) = entries.next() else {
                open.pop();
                continue;
            };
            if found.sizes.len() >= self.max_files {
                break;
            }
            step(&found)?;
            match self.look(&entry) {
                Ok(Some(file)) if file.is_file() => found.sizes.push(file.len()),
                // A folder that a link leads back to is entered once.
                Ok(Some(folder)) if folder.is_dir() && entered.insert(identity(&folder)) => match sorted(&entry.path())
                {
                    Ok(entries) => open.push(entries.into_iter()),
                    Err(_) => found.unreadable += 1,
                },
                Ok(_) => {}
                Err(_) => found.unreadable += 1,
            }
        }
        Ok(found)
    }

    /// What an entry is, or `None` if it is passed over.
    fn look(&self, entry: &DirEntry) -> io::Result<Option<Metadata>> {
        let link = entry.file_type()?.is_symlink();
        if link && !self.follow_links {
            return Ok(None);
        }
        let metadata = if link { fs::metadata(entry.path())? } else { entry.metadata()? };
        let excluded = metadata.is_dir() && self.exclude.contains(&entry.file_name());
        Ok((!excluded).then_some(metadata))
    }
}

fn sorted(folder: &Path) -> io::Result<Vec<DirEntry>> {
    let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_cached_key(DirEntry::file_name);
    Ok(entries)
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
