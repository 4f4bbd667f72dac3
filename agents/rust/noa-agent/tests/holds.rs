//! What a run holds, until it is released.
#![allow(clippy::unwrap_used)]

mod harness;

use std::io;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::*;
use noa_agent::proto::CancelOutcome;
use noa_agent::{Agent, Context, Failure};
use serde_json::{Map, Value, json};
use tokio::process::Command;
use tokio::sync::watch;

const GRACE: Duration = Duration::from_secs(20);

type Object = Map<String, Value>;

/// An agent whose action `hold` holds what is let go of by this.
fn holding<W>(let_go: impl Fn() -> W + Send + Sync + 'static) -> Agent
where
    W: Future<Output: noa_agent::Released> + Send + 'static,
{
    let let_go = Arc::new(let_go);
    Agent::new("holding", "1").action("hold", "", true, move |context: Context, _: Object| {
        let let_go = let_go.clone();
        async move {
            context.hold(let_go());
            Ok::<_, Failure>(json!({}))
        }
    })
}

#[tokio::test]
async fn what_is_held_is_let_go_of_once() {
    let done = Arc::new(AtomicU32::new(0));
    let counter = done.clone();
    let let_go = move || {
        let counter = counter.clone();
        async move {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    };
    let mut host = serve(holding(let_go)).await;
    for id in ["a", "b", "c"] {
        host.outcome(request(id, "hold", json!({}))).await;
    }
    assert_eq!(done.load(Ordering::Relaxed), 0);
    let mut other = client(host.folder.path(), TOKEN).await;
    let asked = noa_agent::proto::CancelRequest {
        target: Some(noa_agent::proto::cancel_request::Target::RunId("run".into())),
        ..Default::default()
    };
    let (one, two) = tokio::join!(host.release("run", GRACE), other.cancel(asked));
    assert_eq!(one.1 + two.unwrap().into_inner().cancelled, 3);
    assert_eq!(done.load(Ordering::Relaxed), 3);
    assert_eq!(host.release("run", GRACE).await, (CancelOutcome::Unknown, 0));
}

#[tokio::test]
async fn a_release_that_fails_counts_as_done() {
    let mut host = serve(holding(|| async { Err::<(), _>(io::Error::other("stuck")) })).await;
    host.outcome(request("a", "hold", json!({}))).await;
    assert_eq!(host.release("run", GRACE).await, (CancelOutcome::Cancelled, 1));
    assert_eq!(host.release("run", GRACE).await, (CancelOutcome::Unknown, 0));

    let breaks = |fails: bool| async move { if fails { Err(io::Error::other("stuck")) } else { panic!("broken") } };
    for fails in [true, false] {
        let mut host =
            serve(test_agent().on_release(move |_| async move { breaks(fails).await.map(|(): ()| 0) })).await;
        assert_eq!(host.release("run", GRACE).await, (CancelOutcome::Cancelled, 1));
    }
}

#[tokio::test]
async fn a_release_that_takes_longer_than_the_grace_goes_on() {
    let (open, opened) = watch::channel(false);
    let done = Arc::new(AtomicU32::new(0));
    let counter = done.clone();
    let let_go = move || {
        let (mut opened, counter) = (opened.clone(), counter.clone());
        async move {
            opened.wait_for(|open| *open).await.unwrap();
            counter.fetch_add(1, Ordering::Relaxed);
        }
    };
    let mut host = serve(holding(let_go)).await;
    host.outcome(request("a", "hold", json!({}))).await;
    host.outcome(request("b", "hold", json!({}))).await;
    assert_eq!(host.release("run", Duration::ZERO).await, (CancelOutcome::Cancelled, 2));
    // Until that is done, the run is not unknown, and nothing is counted twice.
    assert_eq!(host.release("run", Duration::ZERO).await, (CancelOutcome::Cancelled, 0));
    assert_eq!(done.load(Ordering::Relaxed), 0);
    open.send(true).unwrap();
    let last = host.release("run", GRACE).await;
    assert!(matches!(last, (CancelOutcome::Cancelled | CancelOutcome::Unknown, 0)), "{last:?}");
    assert_eq!(done.load(Ordering::Relaxed), 2);
    assert_eq!(host.release("run", GRACE).await, (CancelOutcome::Unknown, 0));
}

#[tokio::test]
async fn a_child_is_gone_with_what_it_started_and_one_that_ended_is_not_held() {
    let agent = Agent::new("children", "1").action("start", "", true, async |context: Context, input: Object| {
        let script = input["script"].as_str().unwrap_or_default().to_owned();
        let mut child =
            Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut stdout = tokio::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        tokio::io::AsyncBufReadExt::read_line(&mut stdout, &mut line).await?;
        context.hold_child(child);
        Ok::<_, Failure>(json!({"pid": line.trim().parse::<u32>().unwrap()}))
    });
    let mut host = serve(agent).await;
    let script = json!({"script": "sleep 600 & echo $!; wait"});
    let grandchild = output(host.outcome(request("a", "start", script)).await)["pid"].as_u64().unwrap();
    assert!(std::fs::exists(format!("/proc/{grandchild}/fd")).unwrap());
    assert_eq!(host.release("run", GRACE).await, (CancelOutcome::Cancelled, 1));
    let began = Instant::now();
    // Whoever inherits it may reap it later; it has nothing open any more.
    while std::fs::read_dir(format!("/proc/{grandchild}/fd")).is_ok_and(|files| files.count() > 0) {
        assert!(began.elapsed() < GRACE);
        tokio::task::yield_now().await;
    }
    host.outcome(request("b", "start", json!({"script": "echo $$"}))).await;
    while host.release("run", GRACE).await != (CancelOutcome::Unknown, 0) {
        assert!(began.elapsed() < GRACE);
    }
}

#[tokio::test]
async fn work_that_was_abandoned_holds_nothing() {
    let (gate, opened) = std::sync::mpsc::channel::<()>();
    let (opened, (told, mut heard)) = (Mutex::new(opened), watch::channel(false));
    let agent = Agent::new("late", "1").blocking_action("late", "", true, move |context: &Context, _: Object| {
        let told = told.clone();
        let _ = opened.lock().unwrap().recv();
        context.hold(async move {
            told.send_replace(true);
        });
        Ok::<_, Failure>(json!({}))
    });
    let mut host = serve(agent).await;
    let stream = host.execute(request("a", "late", json!({}))).await;
    assert_eq!(host.release("run", Duration::ZERO).await, (CancelOutcome::Cancelled, 1));
    assert_eq!(failure(ended(stream).await).code, "CANCELLED");
    gate.send(()).unwrap();
    tokio::time::timeout(GRACE, heard.wait_for(|let_go| *let_go)).await.unwrap().unwrap();
    assert_eq!(host.release("run", GRACE).await, (CancelOutcome::Unknown, 0));
}
