//! The three calls: turns what arrives into work on the table of executions. Knows no socket and no signal.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::agent::Shared;
use crate::context::Context;
use crate::execution::Execution;
use crate::executions::Admission;
use crate::failure::{Failure, UNKNOWN_ACTION};
use crate::proto::agent_service_server::AgentService;
use crate::proto::{
    CancelOutcome, CancelRequest, CancelResponse, ExecuteRequest, HealthRequest, HealthResponse, cancel_request,
};
use crate::stream::ExecutionStream;
use crate::work;

const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(5);
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(10);
const DEFAULT_GRACE: Duration = Duration::from_secs(5);
const LONGEST_GRACE: Duration = Duration::from_secs(3600);
/// How long a release is waited for at the least: with no grace at all, what is held is ended at once all the same.
const SHORTEST_RELEASE: Duration = Duration::from_millis(500);
const ID_BYTES: usize = 512;

/// The contract's service over what the author gave.
#[derive(Clone)]
pub(crate) struct Service {
    shared: Arc<Shared>,
}

impl Service {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn begin(&self, execution: Arc<Execution>, mut request: ExecuteRequest) {
        let shared = &self.shared;
        let input = request.input.take();
        let Some(action) = shared.actions.get(&request.action).cloned() else {
            shared.executions.end(&execution, Err(self.unknown(&request.action)));
            return;
        };
        shared.holds.remember(&execution.run_id);
        let context = Context::new(execution.clone(), request, shared.holds.clone());
        let (executions, runtime) = (shared.executions.clone(), shared.holds.runtime().clone());
        tokio::spawn(work::run(executions, execution, action, context, input, runtime));
    }

    fn unknown(&self, action: &str) -> Failure {
        let known: Vec<&str> = self.shared.actions.keys().map(String::as_str).collect();
        Failure::new(UNKNOWN_ACTION, format!("action '{action}' is not known. Known: {}", known.join(", ")))
            .detail("known", known)
    }

    async fn release(&self, run_id: &str, grace: Duration) -> CancelResponse {
        let until = Instant::now() + grace.max(SHORTEST_RELEASE);
        let (executions, told) = self.shared.executions.cancel_all(Some(run_id), grace.mul_f64(0.8));
        for execution in &executions {
            execution.wait_ended().await;
        }
        let (held, released) = self.shared.holds.release(run_id, until).await;
        let outcome = if held || !executions.is_empty() { CancelOutcome::Cancelled } else { CancelOutcome::Unknown };
        CancelResponse { outcome: outcome.into(), cancelled: released.saturating_add(told) }
    }
}

#[tonic::async_trait]
impl AgentService for Service {
    type ExecuteStream = ExecutionStream;

    async fn execute(&self, request: Request<ExecuteRequest>) -> Result<Response<ExecutionStream>, Status> {
        let request = request.into_inner();
        check_named(&request)?;
        let heartbeat = heartbeat_of(&request);
        let stream = match self.shared.executions.admit(&request.execution_id, &request.run_id) {
            Admission::Known(execution) => execution.stream(true, heartbeat),
            Admission::New(execution) => {
                let stream = execution.stream(false, heartbeat);
                self.begin(execution, request);
                stream
            }
            Admission::Refused(failure) => {
                let refused = Execution::new(request.execution_id, request.run_id);
                refused.end(Err(failure)).tell();
                refused.stream(false, heartbeat)
            }
        };
        Ok(Response::new(stream))
    }

    async fn health(&self, _request: Request<HealthRequest>) -> Result<Response<HealthResponse>, Status> {
        let executions = &self.shared.executions;
        let status = executions.status();
        Ok(Response::new(HealthResponse {
            status: status.health.into(),
            message: status.message,
            manifest: Some(self.shared.manifest.clone()),
            capacity: executions.capacity(),
            in_flight: executions.in_flight(),
        }))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        let CancelRequest { target, reason, grace } = request.into_inner();
        let grace = grace.map_or(DEFAULT_GRACE, |grace| grace.try_into().unwrap_or_default()).min(LONGEST_GRACE);
        tracing::debug!(?target, reason, ?grace, "cancel");
        let response = match target {
            Some(cancel_request::Target::ExecutionId(id)) if !id.is_empty() => {
                // Ends a little early, so that the terminal message is there within the grace.
                let (outcome, cancelled) = self.shared.executions.cancel(&id, grace.mul_f64(0.9));
                CancelResponse { outcome: outcome.into(), cancelled }
            }
            Some(cancel_request::Target::RunId(id)) if !id.is_empty() => self.release(&id, grace).await,
            _ => return Err(Status::invalid_argument("neither execution_id nor run_id is set")),
        };
        Ok(Response::new(response))
    }
}

#[allow(clippy::result_large_err)] // Status is what tonic asks for.
fn check_named(request: &ExecuteRequest) -> Result<(), Status> {
    let required = [("execution_id", &request.execution_id), ("run_id", &request.run_id), ("action", &request.action)];
    if let Some((field, _)) = required.into_iter().find(|(_, value)| value.is_empty()) {
        return Err(Status::invalid_argument(format!("{field} is empty")));
    }
    if request.execution_id.len() > ID_BYTES {
        return Err(Status::invalid_argument(format!("execution_id has more than {ID_BYTES} bytes")));
    }
    Ok(())
}

fn heartbeat_of(request: &ExecuteRequest) -> Duration {
    let asked = request.heartbeat_interval.and_then(|interval| Duration::try_from(interval).ok());
    asked.filter(|interval| !interval.is_zero()).map_or(DEFAULT_HEARTBEAT, |interval| interval.max(SHORTEST_HEARTBEAT))
}
