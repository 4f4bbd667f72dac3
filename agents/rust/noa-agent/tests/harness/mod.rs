//! An agent inside the test's process, on a real unix socket, and a generated client that speaks to it.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use noa_agent::proto::agent_service_client::AgentServiceClient;
use noa_agent::proto::execute_response::Event;
use noa_agent::proto::{
    CancelOutcome, CancelRequest, ExecuteRequest, ExecuteResponse, Failure, HealthRequest, HealthResponse, Payload,
    cancel_request, payload,
};
use noa_agent::{Agent, Context, Launch, Listen, Progress, RunningAgent};
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status, Streaming};

pub const TOKEN: &str = "the token";

pub type Client = AgentServiceClient<InterceptedService<Channel, Token>>;

#[derive(Clone)]
pub struct Token(pub &'static str);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let header = MetadataValue::try_from(format!("Bearer {}", self.0)).unwrap();
        request.metadata_mut().insert("authorization", header);
        Ok(request)
    }
}

pub struct Host {
    pub agent: RunningAgent,
    pub client: Client,
    pub folder: TempDir,
}

/// What most tests ask: echo, and actions that misbehave each in its own way.
pub fn test_agent() -> Agent {
    type Object = Map<String, Value>;
    type Outcome = Result<Value, noa_agent::Failure>;
    Agent::new("test", "1.2.3")
        .with_echo()
        .action("panic", "", true, async |_: Context, _: Object| -> Outcome { panic!("broken {}", "glass") })
        .action("deaf", "", true, async |_: Context, _: Object| -> Outcome {
            tokio::time::sleep(Duration::from_secs(600)).await;
            Ok(json!({}))
        })
        .action("io", "", true, async |_: Context, _: Object| -> Result<Value, std::io::Error> {
            tokio::fs::read("/nonexistent/file").await.map(|_| json!({}))
        })
        .action("large", "", true, async |_: Context, _: Object| -> Outcome { Ok(json!({"x": "y".repeat(300_000)})) })
        .action("chatty", "", true, async |context: Context, _: Object| -> Outcome {
            for done in 0..20_000 {
                context.output("text/plain", &[b'x'; 1000]);
                context.progress(Progress { done: Some(done), ..Progress::default() });
                if done % 100 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            Ok(json!({"done": true}))
        })
}

pub fn start(agent: Agent) -> (RunningAgent, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let listen = Listen::Unix(folder.path().join("agent.sock"));
    (agent.start(&Launch { listen, token: TOKEN.into() }).unwrap(), folder)
}

pub async fn serve(agent: Agent) -> Host {
    let (agent, folder) = start(agent);
    let client = client(folder.path(), TOKEN).await;
    Host { agent, client, folder }
}

pub async fn channel(folder: &Path) -> Channel {
    let path = folder.join("agent.sock");
    let connect = move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    };
    Endpoint::from_static("http://agent").connect_with_connector(tower::service_fn(connect)).await.unwrap()
}

pub async fn client(folder: &Path, token: &'static str) -> Client {
    AgentServiceClient::with_interceptor(channel(folder).await, Token(token))
}

impl Host {
    pub async fn execute(&mut self, request: ExecuteRequest) -> Streaming<ExecuteResponse> {
        self.client.execute(request).await.unwrap().into_inner()
    }

    pub async fn outcome(&mut self, request: ExecuteRequest) -> Event {
        ended(self.execute(request).await).await
    }

    pub async fn failure(&mut self, request: ExecuteRequest) -> Failure {
        failure(self.outcome(request).await)
    }

    pub async fn cancel(&mut self, id: &str, grace: Duration) -> CancelOutcome {
        self.cancel_target(cancel_request::Target::ExecutionId(id.into()), grace).await.0
    }

    pub async fn release(&mut self, run_id: &str, grace: Duration) -> (CancelOutcome, u32) {
        self.cancel_target(cancel_request::Target::RunId(run_id.into()), grace).await
    }

    pub async fn cancel_target(&mut self, target: cancel_request::Target, grace: Duration) -> (CancelOutcome, u32) {
        let request =
            CancelRequest { target: Some(target), grace: Some(grace.try_into().unwrap()), reason: String::new() };
        let response = self.client.cancel(request).await.unwrap().into_inner();
        (response.outcome(), response.cancelled)
    }

    pub async fn health(&mut self) -> HealthResponse {
        self.client.health(HealthRequest {}).await.unwrap().into_inner()
    }
}

pub fn request(id: &str, action: &str, input: Value) -> ExecuteRequest {
    ExecuteRequest {
        execution_id: id.into(),
        idempotency_key: "key".into(),
        run_id: "run".into(),
        task: "stage/task".into(),
        action: action.into(),
        input: Some(inline(input.to_string())),
        ..ExecuteRequest::default()
    }
}

pub fn inline(json: impl Into<Vec<u8>>) -> Payload {
    Payload { content_type: String::new(), value: Some(payload::Value::Inline(json.into().into())) }
}

/// The next event.
pub async fn next(stream: &mut Streaming<ExecuteResponse>) -> Event {
    stream.message().await.unwrap().unwrap().event.unwrap()
}

/// Whether the stream says that it joined.
pub async fn joined(stream: &mut Streaming<ExecuteResponse>) -> bool {
    match next(stream).await {
        Event::Accepted(accepted) => accepted.joined,
        other => panic!("{other:?}"),
    }
}

/// The terminal event; checks that the stream ends after it.
pub async fn ended(mut stream: Streaming<ExecuteResponse>) -> Event {
    loop {
        let event = next(&mut stream).await;
        if matches!(event, Event::Completed(_) | Event::Failed(_)) {
            assert!(stream.message().await.unwrap().is_none());
            return event;
        }
    }
}

pub fn failure(event: Event) -> Failure {
    match event {
        Event::Failed(failed) => failed.failure.unwrap(),
        other => panic!("{other:?}"),
    }
}

pub fn output(event: Event) -> Value {
    let Event::Completed(completed) = event else { panic!("{event:?}") };
    match completed.output.unwrap().value.unwrap() {
        payload::Value::Inline(json) => serde_json::from_slice(&json).unwrap(),
        other => panic!("{other:?}"),
    }
}
