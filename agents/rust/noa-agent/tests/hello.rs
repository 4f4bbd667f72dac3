//! The example in the README, as an engine asks it.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "../examples/hello.rs"]
mod hello;

mod harness;

use harness::*;
use noa_agent::proto::execute_response::Event;
use serde_json::json;

const SOURCE: &str = include_str!("../examples/hello.rs");

#[test]
fn an_author_writes_less_than_40_lines_and_reads_the_same_ones() {
    assert!(SOURCE.lines().count() < 40);
    assert!(include_str!("../../README.md").contains(SOURCE));
}

#[tokio::test]
async fn everyone_is_greeted() {
    let mut host = serve(hello::agent()).await;
    let mut stream = host.execute(request("a", "greet", json!({"names": ["Ada", "Grace"]}))).await;
    joined(&mut stream).await;
    for fraction in [0.5, 1.0] {
        let Event::Progress(progress) = next(&mut stream).await else { panic!() };
        assert_eq!((progress.fraction, progress.unit.as_str()), (Some(fraction), "names"));
    }
    assert_eq!(output(ended(stream).await), json!({"greetings": ["Hello, Ada!", "Hello, Grace!"]}));
    assert_eq!(host.failure(request("b", "greet", json!({"names": ["Ada", ""]}))).await.code, "NO_NAME");
    let refused = host.failure(request("c", "greet", json!({"names": "Ada"}))).await;
    assert!(refused.code == "INVALID_INPUT" && refused.message.contains("names"), "{}", refused.message);
}
