//! Finds the regular files of a folder, always in the same order: depth first, names sorted as bytes, files and
//! folders in one order.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::{fs, io};

use walkdir::{DirEntry, WalkDir};

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
        let entries = WalkDir::new(folder).min_depth(1).follow_links(self.follow_links).sort_by_file_name();
        for entry in entries.into_iter().filter_entry(|entry| self.takes(entry, &mut entered)) {
            if found.sizes.len() >= self.max_files {
                break;
            }
            step(&found)?;
            match entry.and_then(|entry| entry.metadata()) {
                Ok(entry) if entry.is_file() => found.sizes.push(entry.len()),
                Ok(_) => {}
                Err(error) if error.loop_ancestor().is_some() => {} // A link back: what it leads to is entered already.
                Err(error) if error.depth() == 0 => return Err(io::Error::from(error).into()),
                Err(_) => found.unreadable += 1,
            }
        }
        Ok(found)
    }

    /// Whether to look at an entry: a folder is entered once however many links lead to it.
    fn takes(&self, entry: &DirEntry, entered: &mut HashSet<(u64, u64)>) -> bool {
        if !entry.file_type().is_dir() {
            return true;
        }
        let first = |folder| entered.insert(identity(&folder));
        !self.exclude.contains(entry.file_name()) && entry.metadata().map_or(true, first)
    }
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
