//! All executions of this agent: those that go on, and those that ended a moment ago. Owns capacity, joining, repeats
//! and whether new work is taken.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prost::Message;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::execution::{Execution, StopReason};
use crate::failure::{Failure, OVERLOADED};
use crate::lock::lock;
use crate::proto::{CancelOutcome, Completed, HealthStatus};

/// How long a result is repeated.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// How many results are repeated however large they are.
const KEPT_AT_LEAST: usize = 1000;
/// Bytes of results above which those before the last [`KEPT_AT_LEAST`] are forgotten early.
const KEPT_BYTES: usize = 64 * 1024 * 1024;
/// What an entry takes beside its terminal message, about.
const ENTRY_BYTES: usize = 1024;
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// What happens to a request for an execution.
pub(crate) enum Admission {
    New(Arc<Execution>),
    Known(Arc<Execution>),
    Refused(Failure),
}

/// The table of executions.
pub(crate) struct Executions {
    capacity: u32,
    table: Mutex<Table>,
    in_flight: watch::Sender<u32>,
    status: watch::Sender<Status>,
}

/// Whether the agent takes work, and why not.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Status {
    pub(crate) health: HealthStatus,
    pub(crate) message: String,
}

#[derive(Default)]
struct Table {
    running: HashMap<String, Arc<Execution>>,
    ended: HashMap<String, Arc<Execution>>,
    order: VecDeque<Kept>,
    kept_bytes: usize,
}

struct Kept {
    id: String,
    ended_at: Instant,
    bytes: usize,
}

impl Executions {
    /// An empty table; a capacity of 0 is none.
    pub(crate) fn new(capacity: u32) -> Self {
        let starting = Status { health: HealthStatus::Starting, message: "preparing".into() };
        Self {
            capacity,
            table: Mutex::default(),
            in_flight: watch::Sender::new(0),
            status: watch::Sender::new(starting),
        }
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    pub(crate) fn in_flight(&self) -> u32 {
        *self.in_flight.borrow()
    }

    pub(crate) fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    pub(crate) fn watch_status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Changes the status; once it is draining it stays so.
    pub(crate) fn set_status(&self, health: HealthStatus, message: impl Into<String>) {
        let _table = lock(&self.table); // No admission is half done while the status changes.
        let message = message.into();
        self.status.send_if_modified(|status| {
            let changes = status.health != HealthStatus::Draining;
            if changes {
                *status = Status { health, message };
            }
            changes
        });
    }

    /// Finds the execution or makes it, unless there is no room.
    pub(crate) fn admit(&self, id: &str, run_id: &str) -> Admission {
        let mut table = lock(&self.table);
        table.forget(Instant::now());
        if let Some(known) = table.running.get(id).or_else(|| table.ended.get(id)) {
            return Admission::Known(known.clone());
        }
        if let Some(reason) = self.refusal() {
            return Admission::Refused(Failure::new(OVERLOADED, reason).retry_after(RETRY_AFTER));
        }
        let execution = Arc::new(Execution::new(id.to_owned(), run_id.to_owned()));
        table.running.insert(id.to_owned(), execution.clone());
        self.in_flight.send_modify(|count| *count += 1);
        Admission::New(execution)
    }

    fn refusal(&self) -> Option<String> {
        let status = self.status.borrow();
        match status.health {
            HealthStatus::Serving if self.capacity == 0 || self.in_flight() < self.capacity => None,
            HealthStatus::Serving => {
                Some(format!("all {} executions that this agent takes at once go on", self.capacity))
            }
            HealthStatus::Draining => Some("the agent is ending and takes no new work".into()),
            _ => Some(format!("the agent cannot work yet: {}", status.message)),
        }
    }

    /// Ends an execution: frees its place, keeps the result for repeats, then tells the clients.
    pub(crate) fn end(&self, execution: &Arc<Execution>, outcome: Result<Completed, Failure>) {
        let mut table = lock(&self.table);
        let ended = execution.end(outcome);
        if let Some(known) = table.running.remove(&execution.id) {
            table.keep(known, ended.terminal.encoded_len() + ENTRY_BYTES, Instant::now());
            self.in_flight.send_modify(|count| *count -= 1);
        }
        drop(table);
        ended.tell();
    }

    /// Cancels one execution and says what was found, and how many were told to end.
    pub(crate) fn cancel(&self, id: &str, grace: Duration) -> (CancelOutcome, u32) {
        let table = lock(&self.table);
        if let Some(execution) = table.running.get(id) {
            let told = execution.stop(StopReason::Cancelled, grace);
            return (CancelOutcome::Cancelled, u32::from(told));
        }
        let known = table.ended.contains_key(id);
        (if known { CancelOutcome::AlreadyFinished } else { CancelOutcome::Unknown }, 0)
    }

    /// Tells executions to end, all or those of one run. Returns them, and how many had not been told before.
    pub(crate) fn cancel_all(&self, run_id: Option<&str>, grace: Duration) -> (Vec<Arc<Execution>>, u32) {
        let table = lock(&self.table);
        let of_run = |execution: &&Arc<Execution>| run_id.is_none_or(|run_id| execution.run_id == run_id);
        let found: Vec<_> = table.running.values().filter(of_run).cloned().collect();
        let told = found.iter().map(|execution| u32::from(execution.stop(StopReason::Cancelled, grace))).sum();
        (found, told)
    }

    /// Waits until nothing goes on.
    pub(crate) async fn wait_idle(&self) {
        // Fails only when the sender is gone, and it is in self.
        let _ = self.in_flight.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Table {
    fn keep(&mut self, execution: Arc<Execution>, bytes: usize, now: Instant) {
        let id = execution.id.clone();
        self.ended.insert(id.clone(), execution);
        self.order.push_back(Kept { id, ended_at: now, bytes });
        self.kept_bytes += bytes;
        self.forget(now);
    }

    fn forget(&mut self, now: Instant) {
        while self.order.front().is_some_and(|oldest| {
            let crowded = self.order.len() > KEPT_AT_LEAST && self.kept_bytes > KEPT_BYTES;
            crowded || now - oldest.ended_at > KEPT_FOR
        }) {
            let Some(oldest) = self.order.pop_front() else { break };
            self.kept_bytes -= oldest.bytes;
            self.ended.remove(&oldest.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    fn serving(capacity: u32) -> Executions {
        let executions = Executions::new(capacity);
        executions.set_status(HealthStatus::Serving, "");
        executions
    }

    fn admitted(executions: &Executions, id: &str) -> Arc<Execution> {
        match executions.admit(id, "run") {
            Admission::New(execution) => execution,
            Admission::Known(_) => panic!("{id} is known"),
            Admission::Refused(failure) => panic!("{failure}"),
        }
    }

    fn is_known(executions: &Executions, id: &str) -> bool {
        executions.cancel(id, Duration::ZERO).0 != CancelOutcome::Unknown
    }

    #[tokio::test(start_paused = true)]
    async fn a_result_is_kept_for_a_minute() {
        let executions = serving(0);
        let execution = admitted(&executions, "a");
        executions.end(&execution, Ok(Completed::default()));
        advance(KEPT_FOR).await;
        assert!(matches!(executions.admit("a", "run"), Admission::Known(_)));
        advance(Duration::from_secs(1)).await;
        assert!(matches!(executions.admit("a", "run"), Admission::New(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn results_do_not_fill_the_memory() {
        let executions = serving(0);
        let large = Failure::new("LARGE", "x".repeat(16 * 1024));
        for number in 0..6000 {
            let execution = admitted(&executions, &number.to_string());
            executions.end(&execution, Err(large.clone()));
        }
        assert!(!is_known(&executions, "0"));
        assert!(is_known(&executions, "5000") && is_known(&executions, "5999"));
        assert!(lock(&executions.table).kept_bytes <= KEPT_BYTES);
    }

    #[tokio::test]
    async fn a_place_is_free_again_when_its_execution_ends() {
        let executions = serving(1);
        let execution = admitted(&executions, "a");
        assert!(matches!(executions.admit("b", "run"), Admission::Refused(_)));
        assert!(matches!(executions.admit("a", "run"), Admission::Known(_)));
        executions.end(&execution, Ok(Completed::default()));
        admitted(&executions, "b");
    }

    #[tokio::test]
    async fn draining_is_for_good() {
        let executions = serving(0);
        executions.set_status(HealthStatus::Draining, "told to end");
        executions.set_status(HealthStatus::Serving, "");
        assert_eq!(executions.status().health, HealthStatus::Draining);
        assert!(matches!(executions.admit("a", "run"), Admission::Refused(failure) if failure.retryable));
    }

    #[tokio::test]
    async fn what_was_cancelled_in_time_does_not_complete() {
        let executions = serving(0);
        let execution = admitted(&executions, "a");
        assert_eq!(executions.cancel("a", Duration::ZERO), (CancelOutcome::Cancelled, 1));
        assert_eq!(executions.cancel("a", Duration::ZERO), (CancelOutcome::Cancelled, 0));
        let ended = execution.end(Ok(Completed::default()));
        assert!(format!("{:?}", ended.terminal).contains("CANCELLED"));
    }
}
