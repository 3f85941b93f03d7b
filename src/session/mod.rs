//! Sessions: one loop per WebSocket, from `hello` to the close.
//!
//! A session carries one device's cursor through its user's sync timeline, and the device's requests to
//! the engine. Everything it pushes it could also have read from the log, so it may at any time forget
//! what is queued and read a page instead. It gives no numbers, knows no store, and holds nothing that
//! would be missed: what is lost with it is read again after the next `hello`.
//!
//! | file | holds |
//! |---|---|
//! | `socket`, `metered` | texts in, frames out; memory given back when idle |
//! | `hello` | the first frame: token, registration, where the device stands |
//! | `run` | the loop and its order of attention |
//! | `feed` | pages, live entries, resets, the window |
//! | `large` | large conversations: `heads` |
//! | `ask` | requests, acknowledgements, errors |
//! | `cursor`, `order`, `rate` | arithmetic without I/O |
//! | `meters` | what is counted |
//!
//! How it can hurt: a frame whose `from_seq` is not what was sent last makes every client ask again; one
//! await without a bound lets a stuck client hold a task for ever.

mod ask;
mod cursor;
mod feed;
mod hello;
mod large;
mod metered;
mod meters;
mod order;
pub(crate) mod rate;
mod run;
mod socket;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::auth::Verifier;
use crate::config::duration::millis;
use crate::config::{Clock, Policy, SessionLimits};
use crate::engine::Engine;
use crate::hub::Hub;
use crate::presence::Board;
use crate::protocol::{CloseCode, Limits, ParseLimits};
use meters::Meters;
use rate::{Allowed, Rates};
use run::Session;
pub use socket::Transport;
use socket::{Socket, SocketLimits};

/// What all sessions of a server share.
pub struct Shared {
    engine: Engine,
    hub: Arc<Hub>,
    clock: Clock,
    verifier: Verifier,
    limits: SessionLimits,
    parse: ParseLimits,
    told: Limits,
    draining: CancellationToken,
    board: Arc<Board>,
    meters: Meters,
    rates: Rates,
    started_at: u64,
    count: AtomicU64,
}

impl Shared {
    /// Puts the pieces together. When `draining` is cancelled nobody is welcomed any more.
    pub fn new(
        engine: Engine,
        hub: Arc<Hub>,
        clock: Clock,
        verifier: Verifier,
        limits: SessionLimits,
        policy: &Policy,
        draining: CancellationToken,
    ) -> Self {
        let told = Limits {
            max_frame_bytes: limits.max_frame_bytes as u64,
            max_body_bytes: policy.max_body_bytes as u64,
            max_server_frame_bytes: limits.max_server_frame_bytes as u64,
            window_entries: limits.window_entries,
            dedupe_seconds: policy.dedupe_ms / 1000,
        };
        let allowed = Allowed { messages: limits.rate_messages, requests: limits.rate_requests };
        let board = Board::new(engine.clone(), Arc::clone(&hub));
        Self {
            engine,
            hub,
            verifier,
            parse: ParseLimits { max_body: policy.max_body_bytes },
            told,
            draining,
            board,
            meters: Meters::new(),
            rates: Rates::new(allowed),
            started_at: clock.now_ms(),
            count: AtomicU64::new(0),
            limits,
            clock,
        }
    }

    /// A name for a connection, different from all others of this and earlier processes.
    fn session_id(&self, number: u64) -> String {
        format!("{:x}-{number:x}", self.started_at)
    }

    fn heartbeat_ms(&self) -> u64 {
        millis(self.limits.heartbeat)
    }
}

/// Why and how a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// We close, with this code and reason.
    Close(u16, &'static str),
    /// The peer closed or is lost.
    ByPeer,
}

impl From<CloseCode> for End {
    fn from(code: CloseCode) -> Self {
        Self::Close(code.code(), reason(code))
    }
}

/// Reasons are for people and short: a close frame holds 123 bytes.
fn reason(code: CloseCode) -> &'static str {
    match code {
        CloseCode::GoingAway | CloseCode::Restart => "server restarts",
        CloseCode::Unsupported => "binary frame",
        CloseCode::InvalidUtf8 => "invalid UTF-8",
        CloseCode::TooBig => "frame too large",
        CloseCode::TryAgainLater => "try again later",
        CloseCode::TokenExpired => "token expired",
        CloseCode::HeartbeatMissed => "heartbeats missed",
        CloseCode::RateExceeded => "rate exceeded",
        CloseCode::ProtocolViolation => "protocol violation",
        CloseCode::HelloRequired => "hello required",
        CloseCode::HelloTimeout => "no hello in time",
        CloseCode::InvalidToken => "invalid token",
        CloseCode::Revoked => "device revoked",
        CloseCode::TooManyConnections => "too many connections",
        CloseCode::Replaced => "the same device connected again",
    }
}

/// Serves one upgraded WebSocket until it ends. `rest` was read from the stream already; `bearer` is the
/// token of the upgrade's `Authorization` header, which goes over the one in `hello`.
pub async fn serve<S: Transport>(shared: Arc<Shared>, stream: S, rest: Vec<u8>, bearer: Option<String>) {
    // Boxed, so that what only the beginning needs does not stay in the task of an idle session.
    let Some(session) = Box::pin(begin(shared, stream, rest, bearer)).await else { return };
    let span = session.span();
    session.run().instrument(span).await;
}

/// Until `welcome`; `None`: there was none, and the socket is closed.
async fn begin<S: Transport>(
    shared: Arc<Shared>,
    stream: S,
    rest: Vec<u8>,
    bearer: Option<String>,
) -> Option<Box<Session<S>>> {
    let limits = SocketLimits {
        max_frame_bytes: shared.limits.max_frame_bytes,
        write_stall: shared.limits.write_stall,
        close_grace: shared.limits.close_grace,
    };
    let mut socket = Socket::new(stream, rest, limits).await;
    match hello::greet(&shared, &mut socket, bearer).await {
        Ok(guest) => Some(Box::new(Session::new(guest, socket))),
        Err(end) => {
            finish(socket, end).await;
            None
        }
    }
}

/// The closing handshake, or the answer to the peer's.
async fn finish<S: Transport>(socket: Socket<S>, end: End) {
    match end {
        End::Close(code, reason) => {
            tracing::debug!(code, reason, "closing");
            socket.close(code, reason).await;
        }
        End::ByPeer => {
            tracing::debug!("closed by peer");
            socket.closed_by_peer().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sim::{Faults, Sim, SimOptions};

    #[tokio::test]
    async fn the_task_of_a_session_is_small() {
        let (clock, policy, hub) = (Clock::simulated(0), Policy::default(), Arc::new(Hub::default()));
        let options = SimOptions { seed: 1, clock: clock.clone(), together: true, faults: Faults::none() };
        let engine = Engine::new(Arc::new(Sim::new(options)), Arc::clone(&hub), clock.clone(), policy.clone(), 1);
        let limits = crate::config::Settings::default().session;
        let verifier = Verifier::with_secret("x", clock.clone());
        let shared = Shared::new(engine, hub, clock, verifier, limits, &policy, CancellationToken::new());
        let (stream, _peer) = tokio::io::duplex(64);
        let task = size_of_val(&serve(Arc::new(shared), stream, Vec::new(), None));
        let session = size_of::<Session<tokio::io::DuplexStream>>();
        // With the read buffer of 4 KiB, the span and the seat this stays below 8 KiB.
        assert!(task <= 1024 && session <= 1024, "{task} {session}");
    }
}
