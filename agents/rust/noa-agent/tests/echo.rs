//! The echo action, field by field.
#![allow(clippy::unwrap_used)]

mod harness;

use std::time::{Duration, Instant};

use harness::*;
use noa_agent::proto::execute_response::Event;
use noa_agent::proto::{CancelOutcome, payload};
use serde_json::{Value, json};

const GRACE: Duration = Duration::from_secs(20);

/// Everything that a stream says after `accepted`.
async fn all(host: &mut Host, id: &str, input: Value) -> Vec<Event> {
    let mut stream = host.execute(request(id, "echo", input)).await;
    joined(&mut stream).await;
    let mut events = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        events.push(message.event.unwrap());
    }
    events
}

#[tokio::test]
async fn many_observations_arrive_complete_and_in_order() {
    let mut host = serve(test_agent()).await;
    let events = all(&mut host, "a", json!({"logs": 5000, "chunks": 3000, "progress": 2000})).await;
    let (mut logs, mut chunks, mut steps) = (0, 0, 0);
    for event in &events {
        match event {
            Event::Log(log) => {
                logs += 1;
                assert_eq!(log.message, format!("line {logs}"));
            }
            Event::Output(chunk) => {
                chunks += 1;
                assert_eq!(&chunk.data[..], format!("chunk {chunks}\n").as_bytes());
            }
            Event::Progress(progress) => {
                steps += 1;
                assert_eq!((progress.done, progress.total), (Some(steps), Some(2000)));
                #[allow(clippy::cast_precision_loss)]
                let fraction = steps as f64 / 2000.0;
                assert_eq!(progress.fraction, Some(fraction));
            }
            _ => {}
        }
    }
    assert_eq!((logs, chunks, steps), (5000, 3000, 2000));
}

#[tokio::test]
async fn progress_is_spread_over_waiting_and_computing() {
    let mut host = serve(test_agent()).await;
    let began = Instant::now();
    let asked = request("a", "echo", json!({"sleep_s": 0.2, "burn_s": 0.2, "progress": 8}));
    let mut stream = host.execute(asked).await;
    joined(&mut stream).await;
    for step in 1..=8 {
        let Event::Progress(progress) = next(&mut stream).await else { panic!() };
        assert_eq!(progress.done, Some(step));
        assert!(began.elapsed() >= Duration::from_millis(50) * u32::try_from(step).unwrap());
    }
    assert_eq!(output(ended(stream).await)["echo"]["progress"], 8);
}

#[tokio::test]
async fn computing_and_writing_end_when_they_are_cancelled() {
    let mut host = serve(test_agent()).await;
    for (id, input) in [("a", json!({"burn_s": 600})), ("b", json!({"sleep_s": 600, "progress": 7}))] {
        let stream = host.execute(request(id, "echo", input)).await;
        let began = Instant::now();
        assert_eq!(host.cancel(id, Duration::from_secs(60)).await, CancelOutcome::Cancelled);
        assert_eq!(failure(ended(stream).await).code, "CANCELLED");
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}

#[tokio::test]
async fn padding_goes_by_reference_where_it_is_large() {
    let mut host = serve(test_agent()).await;
    assert_eq!(output(host.outcome(request("a", "echo", json!({"size_bytes": 3}))).await)["padding"], "xxx");
    let mut asked = request("b", "echo", json!({"size_bytes": 300_000}));
    asked.artifact_prefix = format!("file://{}/", host.folder.path().display());
    let Event::Completed(completed) = host.outcome(asked).await else { panic!() };
    let Some(payload::Value::Artifact(artifact)) = completed.output.unwrap().value else { panic!() };
    let content = std::fs::read(artifact.uri.strip_prefix("file://").unwrap()).unwrap();
    assert_eq!(content.len() as u64, artifact.size_bytes);
    let output: Value = serde_json::from_slice(&content).unwrap();
    assert_eq!(output["padding"].as_str().unwrap(), "x".repeat(300_000));
}

#[tokio::test]
async fn a_child_lives_until_its_run_is_released() {
    let mut host = serve(test_agent()).await;
    let pids: Vec<u64> = [
        output(host.outcome(request("a", "echo", json!({"child": true}))).await),
        output(host.outcome(request("b", "echo", json!({"child": true}))).await),
    ]
    .iter()
    .map(|output| output["pid"].as_u64().unwrap())
    .collect();
    let alive = |pid: &u64| std::fs::exists(format!("/proc/{pid}")).unwrap();
    assert!(pids.iter().all(alive));
    assert_eq!(host.release("run", GRACE).await, (CancelOutcome::Cancelled, 2));
    assert!(!pids.iter().any(alive));
    assert_eq!(host.release("run", GRACE).await, (CancelOutcome::Unknown, 0));
}

#[tokio::test]
async fn it_fails_as_it_is_asked_to() {
    let mut host = serve(test_agent()).await;
    let failure = host.failure(request("a", "echo", json!({"panic": true}))).await;
    assert_eq!((failure.code.as_str(), failure.retryable), ("INTERNAL", false));
    let fail = json!({"code": "BUSY", "message": "later", "retryable": true, "retry_after_s": 1.5});
    let failure = host.failure(request("b", "echo", json!({"fail": fail}))).await;
    assert_eq!((failure.code.as_str(), failure.message.as_str(), failure.retryable), ("BUSY", "later", true));
    assert_eq!(failure.retry_after.unwrap().nanos, 500_000_000);
    assert_eq!(host.failure(request("c", "echo", json!({"fail": {}}))).await.code, "ECHO_FAILED");
}

#[tokio::test]
async fn what_does_not_fit_names_the_field() {
    let mut host = serve(test_agent()).await;
    for (number, (field, value)) in [
        ("sleep_s", json!(-0.1)),
        ("burn_s", json!("long")),
        ("progress", json!(100_001)),
        ("logs", json!(-1)),
        ("chunks", json!(1.5)),
        ("size_bytes", json!(1_073_741_825)),
        ("stderr_bytes", json!([1])),
        ("child", json!(1)),
        ("panic", json!("yes")),
        ("fail", json!("please")),
        ("fail.retry_after_s", json!(-1)),
    ]
    .into_iter()
    .enumerate()
    {
        let input = match field.split_once('.') {
            Some((outer, inner)) => json!({outer: {inner: value}}),
            None => json!({field: value}),
        };
        let failure = host.failure(request(&number.to_string(), "echo", input)).await;
        assert_eq!((failure.code.as_str(), failure.retryable), ("INVALID_INPUT", false), "{field}");
        assert!(failure.message.contains(&format!("'{field}'")), "{}", failure.message);
    }
}

#[tokio::test]
async fn its_schemas_are_announced() {
    let mut host = serve(test_agent()).await;
    let manifest = host.health().await.manifest.unwrap();
    let action = manifest.actions.into_iter().find(|action| action.name == "echo").unwrap();
    assert!(action.idempotent);
    let fields = |schema: Option<prost_types::Struct>| format!("{:?}", schema.unwrap().fields["properties"]);
    let input = fields(action.input_schema);
    for field in
        ["sleep_s", "burn_s", "progress", "logs", "chunks", "size_bytes", "stderr_bytes", "child", "panic", "fail"]
    {
        assert!(input.contains(field), "{field}");
    }
    let output = fields(action.output_schema);
    assert!(["echo", "padding", "pid"].iter().all(|field| output.contains(field)), "{output}");
}
