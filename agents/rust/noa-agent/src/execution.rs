//! One execution: its phase, who listens, and what ends it. Decides which terminal message counts.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::failure::{DEADLINE_EXCEEDED, Failure};
use crate::lock::lock;
use crate::proto::execute_response::Event;
use crate::proto::{Completed, ExecuteResponse, Failed};
use crate::stream::{ExecutionStream, Outbox, message};

/// Why an execution is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopReason {
    Cancelled,
    Deadline,
}

/// That an execution is told to end, and when its work is abandoned if it has not.
#[derive(Debug, Clone, Copy)]
struct Stop {
    reason: StopReason,
    until: Instant,
}

#[derive(Debug)]
enum Phase {
    Running,
    Stopping(Stop),
    Ended(ExecuteResponse),
}

#[derive(Debug)]
struct State {
    phase: Phase,
    clients: Vec<Weak<Outbox>>,
}

/// An attempt of a task as this agent sees it.
#[derive(Debug)]
pub(crate) struct Execution {
    pub(crate) id: String,
    pub(crate) run_id: String,
    /// Asks the work to end.
    pub(crate) token: CancellationToken,
    ended: CancellationToken,
    stop_changed: Notify,
    state: Mutex<State>,
}

impl Execution {
    pub(crate) fn new(id: String, run_id: String) -> Self {
        Self {
            id,
            run_id,
            token: CancellationToken::new(),
            ended: CancellationToken::new(),
            stop_changed: Notify::new(),
            state: Mutex::new(State { phase: Phase::Running, clients: Vec::new() }),
        }
    }

    /// Opens a stream for one more client; one that comes after the end hears the terminal message at once.
    pub(crate) fn stream(&self, joined: bool, heartbeat_interval: Duration) -> ExecutionStream {
        let outbox = Arc::new(Outbox::default());
        let mut state = lock(&self.state);
        match &state.phase {
            Phase::Ended(terminal) => outbox.end(terminal.clone()),
            _ => state.clients.push(Arc::downgrade(&outbox)),
        }
        ExecutionStream::new(outbox, joined, heartbeat_interval)
    }

    /// Tells whoever listens. Nothing is kept for clients that come later, nor sent after the end.
    pub(crate) fn observe(&self, event: Event) {
        let message = message(event);
        lock(&self.state).clients.retain(|client| {
            let client = client.upgrade();
            client.map(|outbox| outbox.observe(message.clone())).is_some()
        });
    }

    /// Waits until all who listen have taken what was told. False as soon as one takes nothing for this long.
    pub(crate) async fn wait_heard(&self, patience: Duration) -> bool {
        let clients: Vec<_> = lock(&self.state).clients.iter().filter_map(Weak::upgrade).collect();
        for client in clients {
            if !client.wait_taken(patience).await {
                return false;
            }
        }
        true
    }

    /// Tells the work to end; the first reason counts, the earliest end of a grace too. False if it had been told.
    pub(crate) fn stop(&self, reason: StopReason, grace: Duration) -> bool {
        let asked = Stop { reason, until: Instant::now() + grace };
        let first = {
            let mut state = lock(&self.state);
            match &mut state.phase {
                Phase::Running => {
                    state.phase = Phase::Stopping(asked);
                    true
                }
                Phase::Stopping(stop) => {
                    stop.until = stop.until.min(asked.until);
                    false
                }
                Phase::Ended(_) => return false,
            }
        };
        self.token.cancel();
        self.stop_changed.notify_one();
        first
    }

    /// Waits until the work is to be abandoned: it was told to end, and its grace is over.
    pub(crate) async fn wait_abandoned(&self) {
        loop {
            let until = self.stopping().map(|stop| stop.until);
            match until {
                Some(until) if until <= Instant::now() => return,
                Some(until) => tokio::select! {
                    () = tokio::time::sleep_until(until) => return,
                    () = self.stop_changed.notified() => {}
                },
                None => self.stop_changed.notified().await,
            }
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping().is_some()
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(lock(&self.state).phase, Phase::Ended(_))
    }

    fn stopping(&self) -> Option<Stop> {
        match lock(&self.state).phase {
            Phase::Stopping(stop) => Some(stop),
            _ => None,
        }
    }

    /// Waits until the terminal message is there.
    pub(crate) async fn wait_ended(&self) {
        self.ended.cancelled().await;
    }

    /// Fixes the terminal message: what the work gave, unless it was told to end before. Send it by [`Ended::tell`].
    pub(crate) fn end(&self, outcome: Result<Completed, Failure>) -> Ended {
        let mut state = lock(&self.state);
        let event = match (&state.phase, outcome) {
            (Phase::Stopping(stop), _) => failed(stop.reason.failure()),
            (_, Ok(completed)) => Event::Completed(completed),
            (_, Err(failure)) => failed(failure),
        };
        let terminal = message(event);
        state.phase = Phase::Ended(terminal.clone());
        Ended { terminal, clients: std::mem::take(&mut state.clients), ended: self.ended.clone() }
    }
}

fn failed(failure: Failure) -> Event {
    Event::Failed(Failed { failure: Some(failure.into_proto()) })
}

impl StopReason {
    fn failure(self) -> Failure {
        match self {
            Self::Cancelled => Failure::cancelled(),
            Self::Deadline => Failure::new(DEADLINE_EXCEEDED, "the deadline passed before the work ended").retryable(),
        }
    }
}

/// An end that is fixed and not told yet.
pub(crate) struct Ended {
    pub(crate) terminal: ExecuteResponse,
    clients: Vec<Weak<Outbox>>,
    ended: CancellationToken,
}

impl Ended {
    /// Sends the terminal message to all clients and wakes who waits for the end.
    pub(crate) fn tell(self) {
        for client in self.clients.iter().filter_map(Weak::upgrade) {
            client.end(self.terminal.clone());
        }
        self.ended.cancel();
    }
}
