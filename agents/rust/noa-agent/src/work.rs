//! Does one execution from its request to its terminal message: input, action, output, and what may end it early.

use std::any::Any;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle};
use tracing::Instrument;

use crate::context::Context;
use crate::execution::{Execution, StopReason};
use crate::executions::Executions;
use crate::failure::Failure;
use crate::manifest::Action;
use crate::payload;
use crate::proto::{Completed, Metrics, Payload};

/// How long work may take to end by itself after its deadline.
const DEADLINE_GRACE: Duration = Duration::from_millis(250);

type Outcome = Result<Completed, Failure>;

/// Runs an action on the author's runtime and watches over it from this one.
pub(crate) async fn run(
    executions: Arc<Executions>,
    execution: Arc<Execution>,
    action: Arc<Action>,
    context: Context,
    input: Option<Payload>,
    runtime: Handle,
) {
    let deadline = context.deadline();
    let span = tracing::info_span!("execution", id = %execution.id, task = context.task());
    let work = async move {
        let began = Instant::now();
        let input = payload::load(input, context.artifacts()).await?;
        let output = action.call(context.clone(), input).await?;
        let output = payload::store(output, context.artifacts()).await?;
        let wall_time = began.elapsed().try_into().ok();
        let values = context.take_metrics();
        Ok(Completed { output: Some(output), metrics: Some(Metrics { wall_time, values, ..Metrics::default() }) })
    };
    let late = deadline.is_some_and(|deadline| deadline <= SystemTime::now());
    if late {
        execution.stop(StopReason::Deadline, Duration::ZERO);
    }
    let outcome = if execution.is_stopping() {
        Err(Failure::cancelled()) // The reason of the stop replaces it.
    } else {
        watch(&execution, runtime.spawn(work.instrument(span)), deadline).await
    };
    executions.end(&execution, outcome);
}

/// Waits for the work, until it is abandoned.
async fn watch(execution: &Execution, mut work: JoinHandle<Outcome>, deadline: Option<SystemTime>) -> Outcome {
    let mut deadline = std::pin::pin!(wait_until(deadline));
    let mut passed = false;
    loop {
        tokio::select! {
            outcome = &mut work => return outcome.unwrap_or_else(|error| Err(broken(error))),
            () = &mut deadline, if !passed => {
                passed = true;
                execution.stop(StopReason::Deadline, DEADLINE_GRACE);
            }
            () = execution.wait_abandoned() => {
                work.abort();
                return Err(Failure::cancelled());
            }
        }
    }
}

fn wait_until(deadline: Option<SystemTime>) -> impl Future<Output = ()> {
    let left = deadline.map(|deadline| deadline.duration_since(SystemTime::now()).unwrap_or_default());
    async move {
        match left {
            Some(left) => tokio::time::sleep(left).await,
            None => std::future::pending().await,
        }
    }
}

fn broken(error: JoinError) -> Failure {
    match error.try_into_panic() {
        Ok(panic) => Failure::internal(format!("the action panicked: {}", panic_message(&*panic))),
        Err(error) => Failure::internal(format!("the action was ended from within the agent: {error}")),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}
