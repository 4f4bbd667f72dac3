//! Hashes and compresses one file after the other. Owns what lies in the output folder: one gzip file for each content,
//! named by its hash.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use noa_agent::{Failure, JsonSchema, WholeFile};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const CHUNK_BYTES: usize = 128 * 1024;

/// A file to compress.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Asked {
    /// Path, absolute or below `root`.
    #[schemars(length(min = 1))]
    pub path: PathBuf,
    /// Bytes that it is thought to have. Informative.
    #[serde(rename = "size")]
    pub _size: Option<u64>,
}

/// A file that was compressed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Compressed {
    /// Path as it was given.
    pub path: PathBuf,
    /// Bytes of the content.
    pub size_bytes: u64,
    /// SHA-256 of the content in lower-case hex.
    pub sha256: String,
    /// Where the compressed content is.
    pub gzip_path: PathBuf,
    /// Bytes of the compressed content.
    pub gzip_bytes: u64,
}

/// A file that could not be read.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Skipped {
    /// Path as it was given.
    pub path: PathBuf,
    /// Why, such as "permission denied".
    pub reason: String,
}

/// What was done.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Summary {
    /// What was compressed, in the order of the input.
    pub files: Vec<Compressed>,
    /// What could not be read, in the order of the input.
    pub skipped: Vec<Skipped>,
    /// Bytes of all contents.
    pub bytes_in: u64,
    /// Bytes of the compressed contents; one that was given twice counts once.
    pub bytes_out: u64,
}

/// How to compress, and where to.
#[derive(Debug)]
pub struct Compressor {
    /// Where relative paths begin.
    pub root: PathBuf,
    /// Where compressed contents go.
    pub output: PathBuf,
    /// 1 (fast) to 9 (small).
    pub level: u32,
}

/// Why a file was not compressed.
enum Problem {
    /// It cannot be read; others may be.
    Unreadable(String),
    /// Nothing can be written, or the work shall end.
    Fatal(Failure),
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self::Fatal(failure)
    }
}

impl Compressor {
    /// Compresses files. `step` is asked before each chunk whether to go on, with how many files are done.
    ///
    /// # Errors
    /// `OUTPUT_NOT_WRITABLE`, or what `step` fails with; what is done already stays, what is half done does not.
    pub fn compress(
        &self,
        asked: Vec<Asked>,
        mut step: impl FnMut(usize) -> Result<(), Failure>,
    ) -> Result<Summary, Failure> {
        fs::create_dir_all(&self.output).map_err(|error| self.unwritable(&error))?;
        let (mut summary, mut contents) = (Summary::default(), HashSet::new());
        for (done, Asked { path, .. }) in asked.into_iter().enumerate() {
            match self.compress_file(&path, &mut || step(done)) {
                Ok(file) => {
                    summary.bytes_in += file.size_bytes;
                    if contents.insert(file.sha256.clone()) {
                        summary.bytes_out += file.gzip_bytes;
                    }
                    summary.files.push(file);
                }
                Err(Problem::Unreadable(reason)) => summary.skipped.push(Skipped { path, reason }),
                Err(Problem::Fatal(failure)) => return Err(failure),
            }
        }
        Ok(summary)
    }

    fn compress_file(
        &self,
        path: &Path,
        step: &mut impl FnMut() -> Result<(), Failure>,
    ) -> Result<Compressed, Problem> {
        step()?;
        let mut source = open(&self.root.join(path)).map_err(Problem::Unreadable)?;
        let unwritable = |error: io::Error| Problem::Fatal(self.unwritable(&error));
        let target = WholeFile::begin(&self.output).map_err(unwritable)?;
        // Without a name and a time in it, the same content gives the same bytes.
        let mut gzip = GzBuilder::new().write(target, Compression::new(self.level));
        let (mut hash, mut size_bytes) = (Sha256::new(), 0);
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let size = match source.read(&mut chunk) {
                Ok(0) => break,
                Ok(size) => size,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Problem::Unreadable(reason_of(&error))),
            };
            hash.update(&chunk[..size]);
            gzip.write_all(&chunk[..size]).map_err(unwritable)?;
            size_bytes += size as u64;
            step()?;
        }
        let sha256: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let gzip_path = self.output.join(format!("{sha256}.gz"));
        let target = gzip.finish().map_err(unwritable)?;
        if !gzip_path.is_file() {
            target.keep(&gzip_path).map_err(unwritable)?;
        }
        let gzip_bytes = fs::metadata(&gzip_path).map_err(unwritable)?.len();
        Ok(Compressed { path: path.to_owned(), size_bytes, sha256, gzip_path, gzip_bytes })
    }

    fn unwritable(&self, error: &io::Error) -> Failure {
        let folder = self.output.display();
        let message = format!("output folder '{folder}' cannot be written: {error}. Free the disk or name another");
        let failure = Failure::new("OUTPUT_NOT_WRITABLE", message);
        if error.kind() == io::ErrorKind::PermissionDenied { failure } else { failure.retryable() }
    }
}

/// Opens what is a regular file, also by a link; anything else might block for ever.
fn open(path: &Path) -> Result<File, String> {
    let found = fs::metadata(path).map_err(|error| reason_of(&error))?;
    if !found.is_file() {
        return Err(if found.is_dir() { "is a directory" } else { "is not a regular file" }.into());
    }
    File::open(path).map_err(|error| reason_of(&error))
}

/// What the system says, as it is written within a sentence, such as "no such file or directory".
fn reason_of(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split_once(" (os error").map_or(&*text, |(text, _)| text);
    let first = text.chars().next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(text.chars().skip(1)).collect()
}

#[cfg(test)]
#[path = "compress_tests.rs"]
mod tests;
