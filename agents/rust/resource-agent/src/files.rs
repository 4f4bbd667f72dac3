//! Finds the regular files of a folder, always in the same order: depth first, names sorted as bytes, files and
//! folders in one order.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::{fs, io};

use noa_agent::Failure;
use walkdir::{DirEntry, WalkDir};

use crate::Input;

const EXCLUDED: [&str; 7] = [".git", ".noa", ".venv", ".cache", "node_modules", "target", "__pycache__"];

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Bytes of each file, in order.
    pub sizes: Vec<u64>,
    /// Entries that could not be looked at.
    pub unreadable: u64,
}

/// Walks through the folder. `step` is asked before each entry, with what is found so far, whether to go on.
///
/// Fails when the folder itself cannot be read or `step` fails; what cannot be read below it is counted.
pub fn find(input: &Input, mut step: impl FnMut(&Found) -> Result<(), Failure>) -> Result<Found, Failure> {
    fs::read_dir(&input.path).map_err(|error| unusable(input, &error))?;
    let mut found = Found::default();
    for entry in entries(input) {
        if found.sizes.len() >= input.max_files.unwrap_or(usize::MAX) {
            break;
        }
        step(&found)?;
        match entry.and_then(|entry| entry.metadata()) {
            Ok(file) if file.is_file() => found.sizes.push(file.len()),
            Err(error) if error.loop_ancestor().is_none() => found.unreadable += 1,
            _ => {} // A folder, something special, or a link back to a folder that is entered already.
        }
    }
    Ok(found)
}

fn entries(input: &Input) -> impl Iterator<Item = walkdir::Result<DirEntry>> {
    let excluded = |entry: &DirEntry| match &input.exclude {
        Some(names) => names.iter().any(|name| entry.file_name() == name.as_str()),
        None => EXCLUDED.iter().any(|name| entry.file_name() == *name),
    };
    // A folder is entered once, however many links lead to it.
    let mut entered = HashSet::new();
    let mut first =
        move |entry: &DirEntry| entry.metadata().map_or(true, |folder| entered.insert((folder.dev(), folder.ino())));
    let walk = WalkDir::new(&input.path).follow_links(input.follow_links.unwrap_or(false)).sort_by_file_name();
    walk.into_iter().filter_entry(move |entry| {
        !entry.file_type().is_dir() || (entry.depth() == 0 || !excluded(entry)) && first(entry)
    })
}

fn unusable(input: &Input, error: &io::Error) -> Failure {
    let (code, problem) = match error.kind() {
        io::ErrorKind::NotFound => ("INPUT_NOT_FOUND", "does not exist".into()),
        io::ErrorKind::NotADirectory => ("INPUT_NOT_A_FOLDER", "is not a folder".into()),
        _ => ("INPUT_UNREADABLE", format!("cannot be read: {error}")),
    };
    Failure::new(code, format!("input path '{}' {problem}", input.path.display()))
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
