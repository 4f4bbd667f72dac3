//! The socket and what answers on it: the contract's service behind the token, and stock health probes without.

use std::io;
use std::net::TcpListener;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::agent::Shared;
use crate::auth::RequireToken;
use crate::launch::{Launch, Listen};
use crate::payload::MESSAGE_BYTES;
use crate::proto::HealthStatus;
use crate::proto::agent_service_server::AgentServiceServer;
use crate::service::Service;

const SERVICE: &str = "noa.agent.v1.AgentService";
/// Calls at once on one connection; every execution that goes on is one.
const STREAMS: u32 = 1 << 20;
/// How many clients may hang up at once without being taken for an attack.
const HANG_UPS: usize = 10_000;
/// How long the last answers may take to leave.
const FAREWELL: Duration = Duration::from_secs(1);

/// A socket that is listened on, and the token that its calls must carry.
pub(crate) struct Server {
    listener: Listener,
    token: RequireToken,
}

enum Listener {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

impl Server {
    pub(crate) fn bind(launch: &Launch) -> io::Result<Self> {
        let listener = match &launch.listen {
            Listen::Unix(path) => Listener::Unix(bind_unix(path)?, path.clone()),
            Listen::Tcp(address) => {
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Listener::Tcp(listener)
            }
        };
        Ok(Self { listener, token: RequireToken::new(&launch.token) })
    }

    /// Answers calls until told to stop, then lets the answers that are under way leave.
    pub(crate) async fn serve(self, shared: Arc<Shared>, stop: CancellationToken) -> io::Result<()> {
        let (reporter, health) = tonic_health::server::health_reporter();
        tokio::spawn(report_health(shared.clone(), reporter));
        let service = AgentServiceServer::new(Service::new(shared))
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        let router = tonic::transport::Server::builder()
            .max_concurrent_streams(STREAMS)
            .http2_max_pending_accept_reset_streams(Some(HANG_UPS))
            .add_service(health)
            .add_service(InterceptedService::new(service, self.token));
        let told = stop.clone().cancelled_owned();
        let serving = async {
            match self.listener {
                Listener::Unix(listener, path) => {
                    let incoming = UnixListenerStream::new(tokio::net::UnixListener::from_std(listener)?);
                    let served = router.serve_with_incoming_shutdown(incoming, told).await;
                    let _ = std::fs::remove_file(path); // Somebody else may have tidied up.
                    served.map_err(io::Error::other)
                }
                Listener::Tcp(listener) => {
                    let listener = tokio::net::TcpListener::from_std(listener)?;
                    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
                    router.serve_with_incoming_shutdown(incoming, told).await.map_err(io::Error::other)
                }
            }
        };
        tokio::select! {
            served = serving => served,
            () = async { stop.cancelled().await; tokio::time::sleep(FAREWELL).await } => Ok(()),
        }
    }
}

/// Binds a socket, in the place of one that a dead process left.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Keeps what stock probes hear equal to what Health says.
async fn report_health(shared: Arc<Shared>, reporter: HealthReporter) {
    let mut status = shared.executions.watch_status();
    loop {
        let serving = status.borrow_and_update().health == HealthStatus::Serving;
        let serving = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in ["", SERVICE] {
            reporter.set_service_status(service, serving).await;
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

/// Starts the thread that answers calls, with a runtime of its own.
pub(crate) fn spawn(work: impl FnOnce(Runtime) + Send + 'static) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("noa-agent-calls".into()).spawn(move || work(runtime))?;
    Ok(())
}
