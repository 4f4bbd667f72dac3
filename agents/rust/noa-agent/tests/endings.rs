//! Cancel, release, preparing and draining.
#![allow(clippy::unwrap_used)]

mod harness;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::*;
use noa_agent::proto::{CancelOutcome, CancelRequest, HealthStatus, cancel_request};
use noa_agent::{Agent, Context, Failure};
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

const GRACE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn cancelled_before_it_is_known_it_still_works() {
    let mut host = serve(test_agent()).await;
    assert_eq!(host.cancel("a", GRACE).await, CancelOutcome::Unknown);
    assert_eq!(output(host.outcome(request("a", "echo", json!({}))).await), json!({"echo": {}}));
}

#[tokio::test]
async fn cancelled_while_it_goes_on_it_ends() {
    let mut host = serve(test_agent()).await;
    let began = Instant::now();
    let stream = host.execute(request("a", "echo", json!({"sleep_s": 60}))).await;
    assert_eq!(host.cancel("a", Duration::from_secs(30)).await, CancelOutcome::Cancelled);
    assert_eq!(failure(ended(stream).await).code, "CANCELLED");
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(host.cancel("a", GRACE).await, CancelOutcome::AlreadyFinished);
    assert_eq!(host.failure(request("a", "echo", json!({}))).await.code, "CANCELLED");
}

#[tokio::test]
async fn work_that_does_not_listen_is_abandoned_after_the_grace() {
    let mut host = serve(test_agent()).await;
    let stream = host.execute(request("a", "deaf", json!({}))).await;
    let began = Instant::now();
    assert_eq!(host.cancel("a", Duration::from_secs(600)).await, CancelOutcome::Cancelled);
    assert_eq!(host.cancel("a", Duration::from_millis(300)).await, CancelOutcome::Cancelled);
    assert_eq!(failure(ended(stream).await).code, "CANCELLED");
    assert!((200..2000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_second_cancel_finds_the_work_told_already() {
    let mut host = serve(test_agent()).await;
    let stream = host.execute(request("a", "deaf", json!({}))).await;
    let target = || cancel_request::Target::ExecutionId("a".into());
    assert_eq!(host.cancel_target(target(), Duration::from_secs(600)).await, (CancelOutcome::Cancelled, 1));
    assert_eq!(host.cancel_target(target(), Duration::from_secs(600)).await, (CancelOutcome::Cancelled, 0));
    // The run's cancel finds it too, and waits for its end.
    assert_eq!(host.release("run", Duration::from_millis(200)).await, (CancelOutcome::Cancelled, 0));
    assert_eq!(failure(ended(stream).await).code, "CANCELLED");
    assert_eq!(host.cancel_target(target(), GRACE).await, (CancelOutcome::AlreadyFinished, 0));
    assert_eq!(host.release("run", GRACE).await, (CancelOutcome::Unknown, 0));
}

#[tokio::test]
async fn cancelled_after_its_end_nothing_changes() {
    let mut host = serve(test_agent()).await;
    let before = host.outcome(request("a", "echo", json!({}))).await;
    assert_eq!(host.cancel("a", GRACE).await, CancelOutcome::AlreadyFinished);
    assert_eq!(host.outcome(request("a", "echo", json!({}))).await, before);
}

#[tokio::test]
async fn a_cancel_of_nothing_ends_the_call() {
    let mut host = serve(test_agent()).await;
    assert_eq!(host.client.cancel(CancelRequest::default()).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn blocking_work_sees_that_it_is_cancelled() {
    let agent = Agent::new("loop", "1").action("loop", "", true, async |context: Context, _: Map<String, Value>| {
        let endless = |context: Context| -> Result<Value, Failure> {
            loop {
                context.check()?;
                std::thread::yield_now();
            }
        };
        context.blocking(endless).await
    });
    let mut host = serve(agent).await;
    let stream = host.execute(request("a", "loop", json!({}))).await;
    host.cancel("a", Duration::from_secs(30)).await;
    assert_eq!(failure(ended(stream).await).code, "CANCELLED");
}

#[tokio::test]
async fn a_run_is_released_with_all_that_is_held_for_it() {
    let released = Arc::new(Mutex::new(Vec::new()));
    let seen = released.clone();
    let agent = test_agent().on_release(move |run_id| {
        let seen = seen.clone();
        async move {
            let mut seen = seen.lock().unwrap();
            let first = !seen.contains(&run_id);
            seen.push(run_id);
            if first { 2 } else { 0 }
        }
    });
    let mut host = serve(agent).await;
    let mut others = request("other", "echo", json!({"sleep_s": 60}));
    others.run_id = "other run".into();
    let _others = host.execute(others).await;
    let streams = [
        host.execute(request("a", "echo", json!({"sleep_s": 60}))).await,
        host.execute(request("b", "deaf", json!({}))).await,
    ];
    assert_eq!(host.release("run", Duration::from_millis(500)).await, (CancelOutcome::Cancelled, 4));
    for stream in streams {
        assert_eq!(failure(ended(stream).await).code, "CANCELLED");
    }
    assert_eq!(host.release("run", GRACE).await, (CancelOutcome::Unknown, 0));
    assert_eq!(host.health().await.in_flight, 1);
    assert_eq!(*released.lock().unwrap(), ["run", "run"]);
}

#[tokio::test]
async fn a_slow_release_does_not_outlast_the_grace() {
    let mut host = serve(test_agent().on_release(|_| std::future::pending::<()>())).await;
    let began = Instant::now();
    assert_eq!(host.release("run", Duration::from_millis(200)).await.0, CancelOutcome::Cancelled);
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn while_it_prepares_it_says_so() {
    let (ready, prepared) = oneshot::channel::<Result<(), String>>();
    let mut host = serve(test_agent().prepare(async { prepared.await.unwrap() })).await;
    let mut probe = HealthClient::new(channel(host.folder.path()).await);
    assert_eq!(probe.check(HealthCheckRequest::default()).await.unwrap().into_inner().status, 2);
    let health = host.health().await;
    assert_eq!(health.status(), HealthStatus::Starting);
    assert!(health.manifest.is_some());
    let failure = host.failure(request("a", "echo", json!({}))).await;
    assert_eq!((failure.code.as_str(), failure.retryable), ("OVERLOADED", true));
    ready.send(Ok(())).unwrap();
    while host.health().await.status() != HealthStatus::Serving {}
    assert_eq!(output(host.outcome(request("a", "echo", json!({}))).await), json!({"echo": {}}));
}

#[tokio::test]
async fn what_cannot_be_prepared_is_told() {
    let mut host = serve(test_agent().prepare(async { Err("no model") })).await;
    while host.health().await.status() == HealthStatus::Starting {}
    let health = host.health().await;
    assert_eq!((health.status(), health.message.as_str()), (HealthStatus::NotServing, "no model"));
    let failure = host.failure(request("a", "echo", json!({}))).await;
    assert_eq!((failure.code.as_str(), failure.retryable), ("OVERLOADED", true));
    assert!(failure.message.contains("no model"), "{}", failure.message);
}

#[tokio::test]
async fn draining_refuses_new_work_and_finishes_the_old() {
    let mut host = serve(test_agent()).await;
    let asked = request("a", "echo", json!({"sleep_s": 0.5}));
    let mut first = host.execute(asked.clone()).await;
    joined(&mut first).await;
    let drained = tokio::spawn(host.agent.drain());
    let mut client = client(host.folder.path(), TOKEN).await;
    loop {
        let health = client.health(noa_agent::proto::HealthRequest {}).await.unwrap().into_inner();
        if health.status() == HealthStatus::Draining {
            break;
        }
    }
    let refused = client.execute(request("b", "echo", json!({}))).await.unwrap().into_inner();
    assert_eq!(failure(ended(refused).await).code, "OVERLOADED");
    let mut again = client.execute(asked).await.unwrap().into_inner();
    assert!(joined(&mut again).await);
    assert_eq!(output(ended(again).await), output(ended(first).await));
    drop((client, host.client));
    tokio::time::timeout(Duration::from_secs(10), drained).await.unwrap().unwrap();
    assert!(!host.folder.path().join("agent.sock").exists());
}

#[tokio::test]
async fn an_action_given_twice_is_an_error() {
    let launch = noa_agent::Launch { listen: noa_agent::Listen::Tcp(([127, 0, 0, 1], 0).into()), token: TOKEN.into() };
    assert!(test_agent().with_echo().start(&launch).is_err());
    assert!(test_agent().start(&launch).is_ok());
}
