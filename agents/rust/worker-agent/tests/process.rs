//! The binary as an engine starts it.
#![allow(clippy::unwrap_used)]

#[path = "../../noa-agent/tests/harness/mod.rs"]
mod harness;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::*;
use noa_agent::proto::HealthRequest;
use serde_json::json;
use tokio::net::UnixStream;

const PATIENCE: Duration = Duration::from_secs(30);

fn worker(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_noa-rust-worker"));
    command.env("NOA_AGENT_LISTEN", format!("unix:{}", folder.join("agent.sock").display()));
    command.env("NOA_AGENT_TOKEN", TOKEN).env("NOA_AGENT_PROTOCOL", "1").env_remove("NOA_WORKER_CAPACITY");
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn until<W: Future<Output = bool>>(holds: impl Fn() -> W) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_worker_that_is_ended_in_the_middle_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, out) = (folder.path().join("agent.sock"), folder.path().join("out"));
    let mut process = worker(folder.path()).args(["--capacity", "3"]).spawn().unwrap();
    until(async || UnixStream::connect(&socket).await.is_ok()).await;
    let mut client = client(folder.path(), TOKEN).await;
    assert_eq!(client.health(HealthRequest {}).await.unwrap().into_inner().capacity, 3);
    // A hole of 64 GiB takes minutes to compress and no room.
    File::create(folder.path().join("hole")).unwrap().set_len(64 << 30).unwrap();
    let input = json!({"root": folder.path(), "files": [{"path": "hole"}], "output_dir": out});
    let _stream = client.execute(request("a", "compress_files", input)).await.unwrap();
    until(async || fs::read_dir(&out).is_ok_and(|files| files.count() == 1)).await;
    drop(process.stdin.take());
    let status = tokio::task::spawn_blocking(move || process.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
}

#[test]
fn a_capacity_that_is_none_is_one_line_and_status_64() {
    let folder = tempfile::tempdir().unwrap();
    let output = worker(folder.path()).arg("--capacity=none").output().unwrap();
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), line.lines().count()), (Some(64), 1), "{line}");
    assert!(line.contains("--capacity is 'none'"), "{line}");
}
