//! The agent: what it is asked, and what it answers.

use std::path::PathBuf;

use noa_agent::{Agent, Context, Failure, JsonSchema, Progress, codes, path_of};
use serde::{Deserialize, Serialize};

use crate::compress::{Asked, Compressor, Summary};

const DEFAULT_LEVEL: u32 = 6;

/// What is asked.
#[derive(Debug, Deserialize, JsonSchema)]
struct Input {
    /// Where relative paths begin, a path or a `file:` URI. Default: the working folder.
    root: Option<String>,
    /// What is compressed.
    files: Vec<Asked>,
    /// Where compressed files go, a path or a `file:` URI. Default: the run's output folder.
    output_dir: Option<String>,
    /// 1 (fast) to 9 (small). Default: 6.
    #[schemars(range(min = 1, max = 9))]
    level: Option<u32>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Output {
    #[serde(flatten)]
    summary: Summary,
    /// Which worker did it.
    worker: &'static str,
    /// Its process.
    pid: u32,
}

/// The agent, which takes so many executions at once.
pub fn agent(capacity: u32) -> Agent {
    Agent::new("rust-worker", env!("CARGO_PKG_VERSION"))
        .blocking_action("compress_files", "Hashes and compresses files, each content once", true, compress_files)
        .with_echo()
        .capacity(capacity)
}

fn compress_files(context: &Context, input: Input) -> Result<Output, Failure> {
    let root = folder("root", input.root.filter(|place| !place.is_empty()).as_deref().unwrap_or("."))?;
    let output = input.output_dir.filter(|place| !place.is_empty());
    let output = output.unwrap_or_else(|| context.output_prefix().to_owned());
    if output.is_empty() {
        return Err(unfit("output_dir", "it is not set, and the run has no output folder"));
    }
    let output = folder("output_dir", &output)?;
    let compressor = Compressor { root, output, level: input.level.unwrap_or(DEFAULT_LEVEL) };
    let (total, mut reported) = (input.files.len(), 0);
    let summary = compressor.compress(input.files, |done| {
        if done > reported {
            reported = done;
            context.progress(Progress::of(done, total).unit("files"));
        }
        context.check()
    })?;
    context.progress(Progress::of(total, total).unit("files"));
    Ok(Output { summary, worker: "rust", pid: std::process::id() })
}

/// The absolute path of a folder that is named by a path or a `file:` URI.
fn folder(field: &str, place: &str) -> Result<PathBuf, Failure> {
    match path_of(place) {
        Some(path) => Ok(path),
        None if place.contains("://") => Err(unfit(field, &format!("'{place}' is not a folder of this machine"))),
        None => std::path::absolute(place).map_err(|error| unfit(field, &error.to_string())),
    }
}

fn unfit(field: &str, problem: &str) -> Failure {
    Failure::new(codes::INVALID_INPUT, format!("the input's field '{field}' does not fit: {problem}"))
        .detail("field", field)
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
