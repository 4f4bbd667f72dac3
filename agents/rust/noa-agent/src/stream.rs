//! What one client hears of an execution. Owns the bound on what waits for a slow client: the oldest observations are
//! dropped, the terminal message never is.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use prost::Message;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_stream::Stream;
use tonic::Status;

use crate::lock::lock;
use crate::proto::execute_response::Event;
use crate::proto::{Accepted, ExecuteResponse, Heartbeat};

const WAITING_MESSAGES: usize = 256;
const WAITING_BYTES: usize = 1024 * 1024;

/// The messages that wait for one client.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: Mutex<Waiting>,
    /// Told when a message is taken, and when nobody will take any more.
    taken: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    observations: VecDeque<ExecuteResponse>,
    bytes: usize,
    terminal: Option<ExecuteResponse>,
    waker: Option<Waker>,
    hung_up: bool,
}

impl Outbox {
    /// Adds an observation and drops the oldest ones where there are too many.
    pub(crate) fn observe(&self, message: ExecuteResponse) {
        let mut waiting = lock(&self.waiting);
        waiting.bytes += message.encoded_len();
        waiting.observations.push_back(message);
        while waiting.observations.len() > WAITING_MESSAGES || waiting.bytes > WAITING_BYTES {
            waiting.take_oldest();
        }
        waiting.wake();
    }

    /// Adds the terminal message, which comes after everything that still waits.
    pub(crate) fn end(&self, terminal: ExecuteResponse) {
        let mut waiting = lock(&self.waiting);
        waiting.terminal = Some(terminal);
        waiting.wake();
    }

    /// Waits until no observation waits. False as soon as none is taken for this long.
    pub(crate) async fn wait_taken(&self, patience: Duration) -> bool {
        loop {
            let taken = self.taken.notified(); // From here on it hears of what is taken.
            {
                let waiting = lock(&self.waiting);
                if waiting.observations.is_empty() || waiting.hung_up {
                    return true;
                }
            }
            if timeout(patience, taken).await.is_err() {
                return false;
            }
        }
    }

    fn hang_up(&self) {
        lock(&self.waiting).hung_up = true;
        self.taken.notify_waiters();
    }

    /// The next message and whether it is the terminal one.
    fn poll_take(&self, cx: &Context<'_>) -> Poll<(ExecuteResponse, bool)> {
        let mut waiting = lock(&self.waiting);
        if let Some(message) = waiting.take_oldest() {
            self.taken.notify_waiters();
            return Poll::Ready((message, false));
        }
        if let Some(terminal) = waiting.terminal.take() {
            return Poll::Ready((terminal, true));
        }
        waiting.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Waiting {
    fn take_oldest(&mut self) -> Option<ExecuteResponse> {
        let message = self.observations.pop_front()?;
        self.bytes -= message.encoded_len();
        Some(message)
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The stream of one call of Execute: accepted, what the outbox gives, heartbeats in between, the terminal message.
#[derive(Debug)]
pub(crate) struct ExecutionStream {
    accepted: Option<Accepted>,
    outbox: Arc<Outbox>,
    ended: bool,
    heartbeat_interval: Duration,
    heartbeat: Pin<Box<Sleep>>,
}

impl ExecutionStream {
    pub(crate) fn new(outbox: Arc<Outbox>, joined: bool, heartbeat_interval: Duration) -> Self {
        Self {
            accepted: Some(Accepted { joined }),
            outbox,
            ended: false,
            heartbeat_interval,
            heartbeat: Box::pin(sleep(heartbeat_interval)),
        }
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<ExecuteResponse> {
        if let Some(accepted) = self.accepted.take() {
            return Poll::Ready(message(Event::Accepted(accepted)));
        }
        if let Poll::Ready((message, terminal)) = self.outbox.poll_take(cx) {
            self.ended = terminal;
            return Poll::Ready(message);
        }
        self.heartbeat.as_mut().poll(cx).map(|()| message(Event::Heartbeat(Heartbeat {})))
    }
}

impl Stream for ExecutionStream {
    type Item = Result<ExecuteResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = self.poll_message(cx);
        if polled.is_ready() && !self.ended {
            let next = Instant::now() + self.heartbeat_interval;
            self.heartbeat.as_mut().reset(next);
        }
        polled.map(|message| Some(Ok(message)))
    }
}

impl Drop for ExecutionStream {
    fn drop(&mut self) {
        self.outbox.hang_up();
    }
}

/// A message of this event.
pub(crate) fn message(event: Event) -> ExecuteResponse {
    ExecuteResponse { event: Some(event) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Completed, OutputChunk};
    use tokio_stream::StreamExt;

    fn chunk(number: usize, size: usize) -> ExecuteResponse {
        let content_type = number.to_string();
        message(Event::Output(OutputChunk { content_type, data: vec![0; size].into() }))
    }

    async fn heard(outbox: Outbox) -> Vec<String> {
        outbox.end(message(Event::Completed(Completed::default())));
        let stream = ExecutionStream::new(Arc::new(outbox), false, Duration::from_secs(5));
        let name = |message: Result<ExecuteResponse, Status>| match message.unwrap().event.unwrap() {
            Event::Output(chunk) => chunk.content_type,
            Event::Accepted(_) => "accepted".into(),
            Event::Completed(_) => "completed".into(),
            other => panic!("{other:?}"),
        };
        stream.map(name).collect().await
    }

    #[tokio::test]
    async fn a_slow_client_loses_the_oldest_observations_and_never_the_result() {
        let outbox = Outbox::default();
        (0..1000).for_each(|number| outbox.observe(chunk(number, 1)));
        let heard = heard(outbox).await;
        assert_eq!(heard.len(), 2 + WAITING_MESSAGES);
        assert_eq!((heard[0].as_str(), heard[1].as_str()), ("accepted", "744"));
        assert_eq!(heard.last().unwrap(), "completed");
    }

    #[tokio::test]
    async fn large_observations_are_bounded_by_their_bytes() {
        let outbox = Outbox::default();
        (0..100).for_each(|number| outbox.observe(chunk(number, 256 * 1024)));
        assert_eq!(heard(outbox).await, ["accepted", "97", "98", "99", "completed"]);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_client_ends_when_it_has_heard_all_or_hangs_up_or_sleeps() {
        let patience = Duration::from_secs(5);
        let outbox = Arc::new(Outbox::default());
        assert!(outbox.wait_taken(patience).await);
        (0..3).for_each(|number| outbox.observe(chunk(number, 1)));
        assert!(!outbox.wait_taken(patience).await);
        let mut stream = ExecutionStream::new(outbox.clone(), false, patience);
        stream.next().await.unwrap().unwrap();
        let reading = async {
            for _ in 0..3 {
                sleep(Duration::from_secs(4)).await;
                stream.next().await.unwrap().unwrap();
            }
        };
        assert!(tokio::join!(outbox.wait_taken(patience), reading).0);
        outbox.observe(chunk(3, 1));
        let hanging_up = async {
            sleep(Duration::from_secs(1)).await;
            drop(stream);
        };
        assert!(tokio::join!(outbox.wait_taken(patience), hanging_up).0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_execution_beats() {
        let outbox = Arc::new(Outbox::default());
        let mut stream = ExecutionStream::new(outbox.clone(), true, Duration::from_secs(5));
        let begin = Instant::now();
        assert!(matches!(
            stream.next().await.unwrap().unwrap().event,
            Some(Event::Accepted(Accepted { joined: true }))
        ));
        for beat in 1..4 {
            assert!(matches!(stream.next().await.unwrap().unwrap().event, Some(Event::Heartbeat(_))));
            assert_eq!(begin.elapsed().as_secs(), beat * 5);
        }
    }
}
