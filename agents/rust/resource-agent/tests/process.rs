//! The binary as an engine starts it: environment, socket, signals, stdin.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use noa_agent::proto::agent_service_client::AgentServiceClient;
use noa_agent::proto::execute_response::Event;
use noa_agent::proto::{ExecuteRequest, HealthRequest, HealthResponse, HealthStatus, Payload, payload};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Streaming};

struct Agent {
    process: Child,
    client: AgentServiceClient<Channel>,
    _folder: TempDir,
}

fn command(listen: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_noa-rust-agent"));
    command.env("NOA_AGENT_PROTOCOL", "1").env("NOA_AGENT_TOKEN", "secret").env("NOA_AGENT_LISTEN", listen);
    command.stdin(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn start() -> Agent {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let process = command(&format!("unix:{}", path.display())).spawn().unwrap();
    let began = Instant::now();
    let channel = loop {
        let path = path.clone();
        let connect = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        match Endpoint::from_static("http://agent").connect_with_connector(connect).await {
            Ok(channel) => break channel,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(10), "{error}"),
        }
        tokio::task::yield_now().await;
    };
    Agent { process, client: AgentServiceClient::new(channel), _folder: folder }
}

fn authorized<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", "Bearer secret".parse().unwrap());
    request
}

impl Agent {
    async fn execute(&mut self, action: &str, input: Value) -> Streaming<noa_agent::proto::ExecuteResponse> {
        let request = ExecuteRequest {
            execution_id: format!("{action} {input}"),
            run_id: "run".into(),
            action: action.into(),
            input: Some(Payload {
                value: Some(payload::Value::Inline(input.to_string().into())),
                ..Payload::default()
            }),
            ..ExecuteRequest::default()
        };
        self.client.execute(authorized(request)).await.unwrap().into_inner()
    }

    /// The output, or the failure's code and message.
    async fn outcome(&mut self, action: &str, input: Value) -> Result<Value, (String, String)> {
        outcome(self.execute(action, input).await).await
    }

    async fn health(&mut self) -> HealthResponse {
        self.client.health(authorized(HealthRequest {})).await.unwrap().into_inner()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.process.id().unwrap().cast_signed()).unwrap(), signal).unwrap();
    }

    async fn ended(mut self) -> ExitStatus {
        let _stdin = self.process.stdin.take(); // Waiting would close it, which ends the agent in another way.
        timeout(Duration::from_secs(10), self.process.wait()).await.unwrap().unwrap()
    }
}

async fn outcome(mut stream: Streaming<noa_agent::proto::ExecuteResponse>) -> Result<Value, (String, String)> {
    while let Some(message) = stream.message().await.unwrap() {
        match message.event {
            Some(Event::Completed(completed)) => {
                let Some(payload::Value::Inline(json)) = completed.output.unwrap().value else { panic!() };
                return Ok(serde_json::from_slice(&json).unwrap());
            }
            Some(Event::Failed(failed)) => {
                let failure = failed.failure.unwrap();
                return Err((failure.code, failure.message));
            }
            _ => {}
        }
    }
    panic!("no terminal message");
}

fn input_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, size) in [("a", 5000), ("b", 3000), ("c/d", 2000), ("target/x", 9)] {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, vec![0; size]).unwrap();
    }
    folder
}

#[tokio::test]
async fn an_allocation_is_made_for_a_folder() {
    let (mut agent, folder) = (start().await, input_folder());
    assert_eq!(agent.health().await.status(), HealthStatus::Serving);
    let input = json!({"path": folder.path(), "threads": 1, "another": {"task's": "input"}, "max_files": null});
    let output = agent.outcome("resource_allocation", input).await.unwrap();
    let allocation = &output["allocation"];
    assert_eq!((&allocation["input_files"], &allocation["input_bytes"]), (&json!(3), &json!(10_000)));
    assert_eq!(allocation["shards"], json!([{"index": 0, "files": 3, "bytes": 10_000}]));
    assert_eq!(allocation["limits"]["threads"], json!({"value": 1, "from": "input threads"}));
    assert_eq!((&allocation["batch_size"], &allocation["imbalance"]), (&json!(64), &json!(1.0)));
    assert!(allocation["memory_bytes"].as_u64().unwrap() > 0);
    let input = json!({"path": folder.path(), "max_files": 1, "exclude": []});
    let output = agent.outcome("resource_allocation", input).await.unwrap();
    assert_eq!(output["allocation"]["input_bytes"], 5000);
}

#[tokio::test]
async fn what_cannot_be_allocated_is_refused_by_its_code() {
    let (mut agent, folder) = (start().await, input_folder());
    let path = folder.path().display().to_string();
    for (input, code, said) in [
        (json!({"path": "/nonexistent/x"}), "INPUT_NOT_FOUND", "/nonexistent/x"),
        (json!({"path": format!("{path}/a")}), "INPUT_NOT_A_FOLDER", "not a folder"),
        (json!({"path": path, "memory_bytes": 1000}), "RESOURCES_EXCEEDED", "268439456 too few"),
        (json!({"path": path, "threads": 0}), "RESOURCES_EXCEEDED", "input threads"),
        (json!({"path": path, "threads": "two"}), "INVALID_INPUT", "threads"),
        (json!({}), "INVALID_INPUT", "path"),
    ] {
        let (found, message) = agent.outcome("resource_allocation", input).await.unwrap_err();
        assert_eq!(found, code);
        assert!(message.contains(said), "{message}");
    }
}

#[tokio::test]
async fn sigterm_lets_work_end_and_sigint_does_nothing() {
    let mut agent = start().await;
    let stream = agent.execute("echo", json!({"sleep_s": 0.5})).await;
    agent.signal(Signal::INT);
    agent.signal(Signal::TERM);
    while agent.health().await.status() != HealthStatus::Draining {}
    assert_eq!(agent.outcome("echo", json!({})).await.unwrap_err().0, "OVERLOADED");
    assert_eq!(outcome(stream).await.unwrap()["echo"]["sleep_s"], 0.5);
    assert_eq!(agent.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_second_sigterm_ends_it_at_once() {
    let mut agent = start().await;
    let _stream = agent.execute("echo", json!({"sleep_s": 60})).await;
    agent.signal(Signal::TERM);
    while agent.health().await.status() != HealthStatus::Draining {}
    agent.signal(Signal::TERM);
    assert_eq!(agent.ended().await.code(), Some(143));
}

#[tokio::test]
async fn the_end_of_stdin_ends_it_within_two_seconds() {
    let mut agent = start().await;
    let _stream = agent.execute("echo", json!({"sleep_s": 60})).await;
    let began = Instant::now();
    drop(agent.process.stdin.take());
    assert_eq!(agent.ended().await.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_wrong_launch_is_one_line_and_status_64() {
    let place = format!("unix:{}", Path::new("/nonexistent/a.sock").display());
    for (name, value, said) in [
        ("NOA_AGENT_PROTOCOL", "2", "speaks 1"),
        ("NOA_AGENT_PROTOCOL", "", "NOA_AGENT_PROTOCOL"),
        ("NOA_AGENT_TOKEN", "", "NOA_AGENT_TOKEN"),
        ("NOA_AGENT_LISTEN", "", "NOA_AGENT_LISTEN"),
        ("NOA_AGENT_LISTEN", "0.0.0.0:1", "NOA_AGENT_LISTEN"),
    ] {
        let output = command(&place).env(name, value).spawn().unwrap().wait_with_output().await.unwrap();
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{line}");
        assert!(line.contains(said) && line.lines().count() == 1, "{line}");
    }
    let unset = command(&place).env_remove("NOA_AGENT_PROTOCOL").spawn().unwrap().wait_with_output().await.unwrap();
    assert_eq!(unset.status.code(), Some(64));
    assert!(String::from_utf8(unset.stderr).unwrap().contains("NOA_AGENT_PROTOCOL is not set"));
    let output = command(&place).spawn().unwrap().wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
}
