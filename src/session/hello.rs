//! The first frame of a connection: who is it, may it, and where does it stand.
//!
//! The order matters: the device registers in the hub before the head is looked at, so that nothing can
//! be committed in between unseen. Until `welcome` nothing of the user is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::cursor::Cursor;
use super::large::Heads;
use super::meters::Counted;
use super::socket::{Ended, Socket, Transport};
use super::{End, Shared};
use crate::auth::{Identity, Rejected};
use crate::engine::{Caller, Refusal, Standing};
use crate::hub::Registration;
use crate::planted::{Bug, planted};
use crate::protocol::{
    ClientFrame, CloseCode, ConvId, ErrorCode, ErrorFrame, Hello, MsgId, Reset, ResetReason, ServerFrame, SyncMode,
    Welcome,
};

/// A bus that says nothing is not waited for longer; heartbeats find what it hides.
const BUS_DEADLINE: Duration = Duration::from_millis(500);
/// Frames of the wrong kind before `hello`; more end the connection.
const MAX_STRAYS: u32 = 8;
/// Unreadable frames of one connection; the third ends it.
pub(super) const MAX_BAD_JSON: u32 = 3;

/// A device that was welcomed.
pub(super) struct Guest {
    pub(super) presence: Presence,
    pub(super) cursor: Cursor,
    /// Of large conversations.
    pub(super) heads: Heads,
    /// The head that was told.
    pub(super) head: u64,
    pub(super) valid_until_ms: u64,
    pub(super) issued_at_ms: Option<u64>,
    pub(super) bad_json: u32,
}

/// A welcomed device's place in the house; given up by dropping it.
pub(super) struct Presence {
    pub(super) shared: Arc<Shared>,
    pub(super) caller: Caller,
    pub(super) seat: Registration,
    /// Names the connection: see [`Shared::session_id`].
    pub(super) number: u64,
    _counted: Counted,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.shared.board.changed(&self.caller.user);
        self.shared.engine.goodbye(&self.caller, self.seat.acked());
    }
}

impl From<Ended> for End {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::ByPeer => Self::ByPeer,
            Ended::Refused(code, reason) => Self::Close(code, reason),
        }
    }
}

/// Waits for `hello` and answers it. The welcome is gathered, not yet written.
pub(super) async fn greet<S: Transport>(
    shared: &Arc<Shared>,
    socket: &mut Socket<S>,
    bearer: Option<String>,
) -> Result<Guest, End> {
    let mut bad_json = 0;
    let hello = await_hello(shared, socket, &mut bad_json).await?;
    let token = bearer.as_deref().or(hello.token.as_deref());
    let identity = match identify(shared, token, &hello) {
        Ok(identity) => identity,
        Err(rejected) => return Err(refuse(shared, socket, hello.id, rejected.code())),
    };
    let caller = Caller { user: identity.user, device: hello.device_id.clone() };
    let mut seat = shared.hub.register(&caller.user, &caller.device);
    if shared.draining.is_cancelled() {
        return Err(CloseCode::Restart.into());
    }
    if let Err(refusal) = shared.engine.check_token(&caller, identity.issued_at_ms).await {
        return Err(refused(shared, socket, hello.id, &refusal));
    }
    // Other nodes' entries come here before the head is looked at, as this node's do.
    seat.heard(BUS_DEADLINE).await;
    seat.announce(shared.clock.now_ms());
    let standing = match shared.engine.hello(&caller, hello.client.clone()).await {
        Ok(standing) => standing,
        Err(refusal) => return Err(refused(shared, socket, hello.id, &refusal)),
    };
    if planted(Bug::HeadBeforeSeat) {
        seat = shared.hub.register(&caller.user, &caller.device);
    }
    let number = shared.count.fetch_add(1, Ordering::Relaxed);
    let heads = Heads::holding(held(&hello, &shared.engine.epoch()));
    let cursor = welcome(shared, socket, &caller, hello, standing, shared.session_id(number));
    seat.set_acked(cursor.acked());
    let counted = Counted::new(&shared.meters.sessions);
    shared.board.changed(&caller.user);
    let presence = Presence { shared: Arc::clone(shared), caller, seat, number, _counted: counted };
    let Identity { valid_until_ms, issued_at_ms, .. } = identity;
    Ok(Guest { presence, cursor, heads, head: standing.head, valid_until_ms, issued_at_ms, bad_json })
}

/// Reads frames until one is `hello`.
async fn await_hello<S: Transport>(shared: &Shared, socket: &mut Socket<S>, bad_json: &mut u32) -> Result<Hello, End> {
    let deadline = sleep_until(Instant::now() + shared.limits.hello_deadline);
    tokio::pin!(deadline);
    let mut strays = 0;
    loop {
        let text = tokio::select! {
            // A server that goes away and a deadline that has passed are not to be outrun by a client.
            biased;
            () = shared.draining.cancelled() => return Err(CloseCode::Restart.into()),
            () = &mut deadline => return Err(CloseCode::HelloTimeout.into()),
            text = socket.read() => text?,
        };
        if let Some(hello) = first_frame(shared, socket, &text, bad_json)? {
            return Ok(hello);
        }
        strays += 1;
        socket.flush().await.map_err(|_| End::ByPeer)?;
        if strays > MAX_STRAYS {
            return Err(CloseCode::ProtocolViolation.into());
        }
    }
}

/// Judges one frame before `hello`; `None`: an error was gathered, and the client may try again.
fn first_frame<S: Transport>(
    shared: &Shared,
    socket: &mut Socket<S>,
    text: &Utf8Bytes,
    bad_json: &mut u32,
) -> Result<Option<Hello>, End> {
    let parsed = ClientFrame::parse_with(text, &shared.parse);
    shared.meters.frame_in(parsed.as_ref().ok());
    let id = match parsed {
        Ok(ClientFrame::Hello(hello)) => return Ok(Some(hello)),
        Ok(ClientFrame::Request(envelope)) => Some(envelope.id),
        Ok(ClientFrame::Ack { .. } | ClientFrame::Pong { .. } | ClientFrame::Typing { .. }) => None,
        Err(reject) => {
            let unreadable = reject.code == ErrorCode::BadJson;
            tell(shared, socket, reject.into_frame());
            *bad_json += u32::from(unreadable);
            return if *bad_json >= MAX_BAD_JSON { Err(CloseCode::ProtocolViolation.into()) } else { Ok(None) };
        }
    };
    tell(shared, socket, ErrorFrame::new(id, ErrorCode::HelloRequired));
    Err(CloseCode::HelloRequired.into())
}

fn identify(shared: &Shared, token: Option<&str>, hello: &Hello) -> Result<Identity, Rejected> {
    let identity = shared.verifier.verify(token.ok_or(Rejected::Invalid)?)?;
    match &identity.device {
        Some(device) if *device != hello.device_id => Err(Rejected::Invalid),
        _ => Ok(identity),
    }
}

fn tell<S: Transport>(shared: &Shared, socket: &mut Socket<S>, error: ErrorFrame) {
    shared.meters.error_out(error.code);
    socket.feed_text(&ServerFrame::Error(error).to_json());
}

/// An error and the close that goes with it.
fn refuse<S: Transport>(shared: &Shared, socket: &mut Socket<S>, id: MsgId, code: ErrorCode) -> End {
    tell(shared, socket, ErrorFrame::new(Some(id), code));
    code.close().unwrap_or(CloseCode::TryAgainLater).into()
}

/// The engine does not take the device.
fn refused<S: Transport>(shared: &Shared, socket: &mut Socket<S>, id: MsgId, refusal: &Refusal) -> End {
    let mut error = ErrorFrame::new(Some(id), refusal.code);
    error.retry_after_ms = refusal.retry_after_ms;
    tell(shared, socket, error);
    refusal.code.close().unwrap_or(CloseCode::TryAgainLater).into()
}

/// Tells where the device stands, and why if its cursor is of no use.
fn welcome<S: Transport>(
    shared: &Shared,
    socket: &mut Socket<S>,
    caller: &Caller,
    hello: Hello,
    standing: Standing,
    session_id: String,
) -> Cursor {
    let epoch = shared.engine.epoch();
    let (sync, position, reason) = judge(hello.cursor.as_ref(), &epoch, standing);
    let welcome = Welcome {
        id: hello.id,
        user_id: caller.user.clone(),
        device_id: caller.device.clone(),
        session_id,
        epoch: epoch.clone(),
        head_seq: standing.head,
        floor_seq: standing.floor,
        sync,
        server_at: shared.clock.now_ms(),
        heartbeat_ms: shared.heartbeat_ms(),
        limits: shared.told,
    };
    shared.meters.welcomes_out.increment(1);
    socket.feed_text(&ServerFrame::Welcome(welcome).to_json());
    if let Some(reason) = reason {
        shared.meters.reset_out(reason);
        let reset = Reset { id: None, reason, epoch, head_seq: standing.head, floor_seq: standing.floor };
        socket.feed_text(&ServerFrame::Reset(reset).to_json());
    }
    Cursor::at(position, shared.limits.window_entries)
}

/// What the device holds of large conversations; numbers of other data mean nothing.
fn held(hello: &Hello, epoch: &str) -> BTreeMap<ConvId, u64> {
    let same = hello.cursor.as_ref().is_some_and(|cursor| cursor.epoch == epoch);
    if same { hello.conversations.clone() } else { BTreeMap::new() }
}

/// What becomes of a cursor: mode, position, and the reason of a reset.
fn judge(
    cursor: Option<&crate::protocol::Cursor>,
    epoch: &str,
    standing: Standing,
) -> (SyncMode, u64, Option<ResetReason>) {
    let Some(cursor) = cursor else { return (SyncMode::Fresh, standing.head, None) };
    let reason = if cursor.epoch != epoch {
        ResetReason::EpochMismatch
    } else if cursor.seq > standing.head {
        ResetReason::Ahead
    } else if cursor.seq < standing.floor {
        ResetReason::TooOld
    } else {
        return (SyncMode::Resumed, cursor.seq, None);
    };
    (SyncMode::Reset, standing.head, Some(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_usable_between_floor_and_head_of_its_epoch() {
        let standing = Standing { head: 1100, floor: 412 };
        let at =
            |epoch: &str, seq| judge(Some(&crate::protocol::Cursor { epoch: epoch.to_owned(), seq }), "k3v9", standing);
        assert_eq!(judge(None, "k3v9", standing), (SyncMode::Fresh, 1100, None));
        for usable in [412, 413, 1100] {
            assert_eq!(at("k3v9", usable), (SyncMode::Resumed, usable, None));
        }
        assert_eq!(at("k3v9", 411), (SyncMode::Reset, 1100, Some(ResetReason::TooOld)));
        assert_eq!(at("k3v9", 1101), (SyncMode::Reset, 1100, Some(ResetReason::Ahead)));
        assert_eq!(at("other", 1101), (SyncMode::Reset, 1100, Some(ResetReason::EpochMismatch)));
    }
}
