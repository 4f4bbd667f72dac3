//! Execute and Health, row by row of the contract's tables.
#![allow(clippy::unwrap_used)]

mod harness;

use std::time::{Duration, Instant, SystemTime};

use harness::*;
use noa_agent::proto::execute_response::Event;
use noa_agent::proto::{HealthRequest, HealthStatus, Payload, payload};
use noa_agent::{Agent, ArtifactRef, Context, Failure, JsonSchema, LogLevel, Progress};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

#[tokio::test]
async fn a_call_without_the_token_is_refused() {
    let host = serve(test_agent()).await;
    let mut stranger = client(host.folder.path(), "wrong").await;
    assert_eq!(stranger.health(HealthRequest {}).await.unwrap_err().code(), Code::Unauthenticated);
    let mut nobody = noa_agent::proto::agent_service_client::AgentServiceClient::new(channel(host.folder.path()).await);
    assert_eq!(nobody.execute(request("a", "echo", json!({}))).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn health_says_who_this_is() {
    let mut host = serve(test_agent().capacity(7)).await;
    let health = host.health().await;
    assert_eq!((health.status(), health.capacity, health.in_flight), (HealthStatus::Serving, 7, 0));
    let manifest = health.manifest.unwrap();
    assert_eq!((manifest.name.as_str(), manifest.language.as_str()), ("test", "rust"));
    assert_eq!((manifest.version.as_str(), manifest.protocol_versions), ("1.2.3", vec![1]));
    assert!(manifest.actions.iter().any(|action| action.name == "echo" && action.input_schema.is_some()));
}

#[tokio::test]
async fn stock_probes_need_no_token() {
    let host = serve(test_agent()).await;
    let mut probe = HealthClient::new(channel(host.folder.path()).await);
    for service in ["", "noa.agent.v1.AgentService"] {
        let answer = probe.check(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner();
        assert_eq!(answer.status, 1, "{service}");
    }
}

#[tokio::test]
async fn work_that_ends_well_is_completed() {
    let mut host = serve(test_agent()).await;
    let mut stream = host.execute(request("a", "echo", json!({"x": [1, 2.5, "é"]}))).await;
    assert!(!joined(&mut stream).await);
    assert_eq!(output(ended(stream).await), json!({"echo": {"x": [1, 2.5, "é"]}}));
}

#[tokio::test]
async fn an_unset_input_is_the_empty_object() {
    let mut host = serve(test_agent()).await;
    let mut asked = request("a", "echo", json!({}));
    asked.input = None;
    assert_eq!(output(host.outcome(asked).await), json!({"echo": {}}));
}

#[tokio::test]
async fn the_same_id_joins_and_repeats() {
    let mut host = serve(test_agent()).await;
    let asked = request("a", "echo", json!({"sleep_s": 0.2}));
    let mut first = host.execute(asked.clone()).await;
    assert!(!joined(&mut first).await);
    let mut second = host.execute(asked.clone()).await;
    assert!(joined(&mut second).await);
    assert_eq!(host.health().await.in_flight, 1);
    let (first, second) = (ended(first).await, ended(second).await);
    assert_eq!(first, second);
    let mut third = host.execute(asked).await;
    assert!(joined(&mut third).await);
    assert_eq!(next(&mut third).await, first);
    assert!(third.message().await.unwrap().is_none());
}

#[tokio::test]
async fn ids_that_are_missing_end_the_call() {
    let mut host = serve(test_agent()).await;
    for field in ["execution_id", "run_id", "action"] {
        let mut asked = request("a", "echo", json!({}));
        match field {
            "execution_id" => asked.execution_id.clear(),
            "run_id" => asked.run_id.clear(),
            _ => asked.action.clear(),
        }
        let status = host.client.execute(asked).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(field), "{status}");
    }
}

#[tokio::test]
async fn an_unknown_action_names_the_known_ones() {
    let mut host = serve(test_agent()).await;
    let failure = host.failure(request("a", "ecko", json!({}))).await;
    assert_eq!((failure.code.as_str(), failure.retryable), ("UNKNOWN_ACTION", false));
    assert!(failure.message.contains("echo"), "{}", failure.message);
}

#[derive(Deserialize, JsonSchema)]
struct Numbers {
    numbers: Vec<i64>,
    table: Option<ArtifactRef>,
}

#[derive(Serialize, JsonSchema)]
struct Sum {
    sum: i64,
    made: ArtifactRef,
}

async fn sum(context: Context, input: Numbers) -> Result<Sum, Failure> {
    let sum = input.numbers.iter().sum();
    if let Some(table) = input.table {
        assert_eq!(context.artifacts().read(&table).await?, b"rows");
    }
    let made = context.artifacts().create("rows", "text/csv").await?;
    Ok(Sum { sum, made })
}

fn summing() -> Agent {
    Agent::new("sum", "1").action("sum", "Adds", true, sum)
}

#[tokio::test]
async fn an_input_that_does_not_fit_names_the_field() {
    let mut host = serve(summing()).await;
    for (id, input, field) in [
        ("a", r#"{"numbers": [1, "two"]}"#, "numbers[1]"),
        ("b", r"{}", "numbers"),
        ("c", r"[1]", "object"),
        ("d", r#"{"numbers"#, "input"),
    ] {
        let mut asked = request(id, "sum", json!({}));
        asked.input = Some(inline(input));
        let failure = host.failure(asked).await;
        assert_eq!((failure.code.as_str(), failure.retryable), ("INVALID_INPUT", false));
        assert!(failure.message.contains(field), "{}", failure.message);
    }
}

#[tokio::test]
async fn artifacts_pass_from_action_to_action() {
    let mut host = serve(summing()).await;
    let prefix = format!("file://{}/", host.folder.path().join("store").display());
    let mut asked = request("a", "sum", json!({"numbers": [1, 2]}));
    asked.artifact_prefix.clone_from(&prefix);
    let made = output(host.outcome(asked).await);
    assert_eq!(made["sum"], 3);
    let mut asked = request("b", "sum", json!({"numbers": [], "table": made["made"]}));
    asked.artifact_prefix = prefix;
    assert_eq!(output(host.outcome(asked).await)["made"], made["made"]);
}

#[tokio::test]
async fn a_panic_is_a_failure_that_says_what_was_raised() {
    let mut host = serve(test_agent()).await;
    let failure = host.failure(request("a", "panic", json!({}))).await;
    assert_eq!((failure.code.as_str(), failure.retryable), ("INTERNAL", false));
    assert!(failure.message.contains("broken glass"), "{}", failure.message);
    let failure = host.failure(request("b", "io", json!({}))).await;
    assert_eq!(failure.code, "INTERNAL");
    assert!(failure.message.contains("No such file"), "{}", failure.message);
}

#[tokio::test]
async fn work_that_fails_has_its_own_code() {
    let mut host = serve(test_agent()).await;
    let fail = json!({"fail": {"code": "NO_PAPER", "message": "the tray is empty", "retryable": true}});
    let failure = host.failure(request("a", "echo", fail)).await;
    assert_eq!((failure.code.as_str(), failure.message.as_str()), ("NO_PAPER", "the tray is empty"));
    assert!(failure.retryable);
}

#[tokio::test]
async fn a_large_output_goes_by_reference_and_comes_back_as_input() {
    let mut host = serve(test_agent()).await;
    let mut asked = request("a", "large", json!({}));
    asked.artifact_prefix = format!("file://{}/", host.folder.path().display());
    let Event::Completed(completed) = host.outcome(asked).await else { panic!() };
    let Some(Payload { value: Some(payload::Value::Artifact(artifact)), .. }) = completed.output else { panic!() };
    assert_eq!(artifact.content_type, "application/json");
    assert!(artifact.uri.ends_with(&format!("/{}/{}", &artifact.sha256[..2], artifact.sha256)));

    let mut asked = request("b", "sum", json!({}));
    asked.action = "echo".into();
    asked.input = Some(Payload { value: Some(payload::Value::Artifact(artifact)), ..Payload::default() });
    let failure = host.failure(asked).await; // Its echo is too large again, and now there is no store.
    assert_eq!(failure.code, "PAYLOAD_TOO_LARGE");
}

#[tokio::test]
async fn more_than_capacity_is_refused_and_may_come_again() {
    let mut host = serve(test_agent().capacity(1)).await;
    let mut first = host.execute(request("a", "echo", json!({"sleep_s": 30}))).await;
    assert!(!joined(&mut first).await);
    let failure = host.failure(request("b", "echo", json!({}))).await;
    assert_eq!((failure.code.as_str(), failure.retryable), ("OVERLOADED", true));
    assert!(failure.retry_after.is_some());
    host.cancel("a", Duration::from_secs(1)).await;
    assert_eq!(harness::failure(ended(first).await).code, "CANCELLED");
    let mut again = host.execute(request("b", "echo", json!({}))).await;
    assert!(!joined(&mut again).await);
    assert_eq!(output(ended(again).await), json!({"echo": {}}));
}

#[tokio::test]
async fn quiet_work_beats() {
    let mut host = serve(test_agent()).await;
    let mut asked = request("a", "echo", json!({"sleep_s": 0.5}));
    asked.heartbeat_interval = Some(Duration::from_millis(50).try_into().unwrap());
    let mut stream = host.execute(asked).await;
    let mut beats = 0;
    while let Some(message) = stream.message().await.unwrap() {
        beats += u32::from(matches!(message.event, Some(Event::Heartbeat(_))));
    }
    assert!((3..=10).contains(&beats), "{beats}");
}

#[tokio::test]
async fn work_ends_at_its_deadline() {
    let mut host = serve(test_agent()).await;
    for (id, action, left) in [("a", "echo", 100), ("b", "deaf", 100), ("c", "echo", 0)] {
        let mut asked = request(id, action, json!({"sleep_s": 30}));
        asked.deadline = Some((SystemTime::now() + Duration::from_millis(left)).into());
        let began = Instant::now();
        let failure = host.failure(asked).await;
        assert_eq!((failure.code.as_str(), failure.retryable), ("DEADLINE_EXCEEDED", true));
        assert!(began.elapsed() < Duration::from_secs(5));
    }
    assert_eq!(host.health().await.in_flight, 0);
}

#[tokio::test]
async fn what_an_action_says_arrives_in_order() {
    let agent =
        Agent::new("talk", "1").action("talk", "", true, async |context: Context, input: Map<String, Value>| {
            for fraction in [0.5, 0.25, 7.0] {
                let unit = "files".into();
                context.progress(Progress {
                    fraction: Some(fraction),
                    done: Some(1),
                    total: Some(2),
                    unit,
                    ..Default::default()
                });
            }
            context.log(LogLevel::Warning, "x".repeat(20_000));
            context.output("", b"piece");
            context.metric("files_per_s", 2.5);
            Ok::<_, Failure>(input)
        });
    let mut host = serve(agent).await;
    let mut stream = host.execute(request("a", "talk", json!({}))).await;
    joined(&mut stream).await;
    for expected in [0.5, 0.5, 1.0] {
        let Event::Progress(progress) = next(&mut stream).await else { panic!() };
        assert_eq!((progress.fraction, progress.total), (Some(expected), Some(2)));
    }
    let Event::Log(log) = next(&mut stream).await else { panic!() };
    assert_eq!((log.level, log.message.len()), (3, 16 * 1024));
    let Event::Output(piece) = next(&mut stream).await else { panic!() };
    assert_eq!(&piece.data[..], b"piece");
    let Event::Completed(completed) = next(&mut stream).await else { panic!() };
    assert_eq!(completed.metrics.unwrap().values["files_per_s"], 2.5);
}

#[tokio::test]
async fn a_client_that_does_not_read_does_not_hold_the_work() {
    let mut host = serve(test_agent()).await;
    let slow = host.execute(request("a", "chatty", json!({}))).await;
    let began = Instant::now();
    while host.health().await.in_flight > 0 {
        assert!(began.elapsed() < Duration::from_secs(30));
        tokio::task::yield_now().await;
    }
    assert_eq!(output(ended(slow).await), json!({"done": true}));
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_end_the_work() {
    let mut host = serve(test_agent()).await;
    let asked = request("a", "echo", json!({"sleep_s": 0.3}));
    let mut stream = host.execute(asked.clone()).await;
    joined(&mut stream).await;
    drop(stream);
    let other = client(host.folder.path(), TOKEN).await;
    host.client = other;
    assert_eq!(host.health().await.in_flight, 1);
    let mut stream = host.execute(asked).await;
    assert!(joined(&mut stream).await);
    assert_eq!(output(ended(stream).await)["echo"]["sleep_s"], 0.3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_answers_while_actions_keep_every_thread_busy() {
    let agent = Agent::new("busy", "1").action("spin", "", true, async |_: Context, input: Map<String, Value>| {
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(1500) {
            std::hint::spin_loop();
        }
        Ok::<_, Failure>(input)
    });
    let (_agent, folder) = start(agent);
    let path = folder.path().to_owned();
    // The client has a runtime of its own: the actions block the one that the agent was started from.
    let slowest = std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let mut client = client(&path, TOKEN).await;
            for id in ["a", "b", "c"] {
                client.execute(request(id, "spin", json!({}))).await.unwrap();
            }
            let mut slowest = Duration::ZERO;
            for _ in 0..10 {
                let began = Instant::now();
                client.health(HealthRequest {}).await.unwrap();
                slowest = slowest.max(began.elapsed());
            }
            slowest
        })
    });
    let slowest = tokio::task::spawn_blocking(|| slowest.join().unwrap()).await.unwrap();
    assert!(slowest < Duration::from_millis(700), "{slowest:?}");
}
