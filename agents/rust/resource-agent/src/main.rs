//! The agent that looks at its host and plans how to share out a folder of files.

mod files;
mod plan;

use std::io;
use std::path::{Path, PathBuf};

use noa_agent::host::Host;
use noa_agent::{Agent, Context, Failure, JsonSchema, Progress};
use serde::{Deserialize, Serialize};

use files::{Found, Walk};
use plan::{Allocation, Bounds, plan};

const EXCLUDED: [&str; 7] = [".git", ".noa", ".venv", ".cache", "node_modules", "target", "__pycache__"];
const FILES_PER_REPORT: usize = 2_000;

#[derive(Debug, Deserialize, JsonSchema)]
struct Input {
    /// Folder whose files are shared out.
    path: PathBuf,
    /// Takes the first files only, in the order of the walk.
    max_files: Option<usize>,
    /// Whether to follow symbolic links. Default: no.
    follow_links: Option<bool>,
    /// Names of folders to pass over. Default: `.git`, `target` and the like.
    exclude: Option<Vec<String>>,
    /// At most so many threads.
    threads: Option<u64>,
    /// At most so much memory.
    memory_bytes: Option<u64>,
    /// At most so many shards. Default: one for each thread.
    max_shards: Option<u64>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Output {
    allocation: Allocation,
}

#[tokio::main]
async fn main() {
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).init();
    Agent::new("rust", env!("CARGO_PKG_VERSION"))
        .action(
            "resource_allocation",
            "Reads the limits of the host and plans shards of a folder's files that fit them",
            true,
            async |context: Context, input: Input| context.blocking(|context| allocate(&context, input)).await,
        )
        .with_echo()
        .capacity(256)
        .serve()
        .await;
}

fn allocate(context: &Context, input: Input) -> Result<Output, Failure> {
    check_folder(&input.path)?;
    let found = find(context, &input)?;
    let bounds = Bounds { threads: input.threads, memory_bytes: input.memory_bytes, max_shards: input.max_shards };
    Ok(Output { allocation: plan(&found.sizes, found.unreadable, Host::here(), bounds)? })
}

fn check_folder(path: &Path) -> Result<(), Failure> {
    let (code, problem) = match path.metadata() {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => ("INPUT_NOT_A_FOLDER", "is not a folder".into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => ("INPUT_NOT_FOUND", "does not exist".into()),
        Err(error) => ("INPUT_UNREADABLE", format!("cannot be read: {error}")),
    };
    Err(Failure::new(code, format!("input path '{}' {problem}", path.display())))
}

fn find(context: &Context, input: &Input) -> Result<Found, Failure> {
    let excluded = || EXCLUDED.map(Into::into).into();
    let walk = Walk {
        max_files: input.max_files.unwrap_or(usize::MAX),
        follow_links: input.follow_links.unwrap_or(false),
        exclude: input.exclude.as_ref().map_or_else(excluded, |names| names.iter().map(Into::into).collect()),
    };
    let mut next_report = FILES_PER_REPORT;
    walk.run(&input.path, |found| {
        if found.sizes.len() >= next_report {
            next_report += FILES_PER_REPORT;
            let (done, unit) = (Some(found.sizes.len() as u64), "files".into());
            context.progress(Progress { done, unit, message: "looking at files".into(), ..Progress::default() });
        }
        context.check()
    })
}
