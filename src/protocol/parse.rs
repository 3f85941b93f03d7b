//! Client frames from text, with the exact error a client is told.
//!
//! Any text is taken, nothing panics, and the cost is linear in its length. Only the shape is
//! checked here: whether a conversation exists or a right is held is for other rooms to say.
//!
//! By section 9 of the contract: of a key given twice the last one counts; `field` is always the
//! name of a top-level field, also for a fault inside it; an `id` on a frame that has none is
//! ignored unless an error can carry it.

use std::collections::BTreeMap;

use super::error::{ErrorCode, ErrorFrame};
use super::fields::{Fault, Fields, as_number, as_text};
use super::ids::{ConvId, MsgId};
use super::limits::{MAX_BODY, MAX_CLIENT_INFO_CHARS, MAX_EPOCH, MAX_HELLO_CONVERSATIONS, MAX_NESTING, MAX_TOKEN};
use super::parse_request::reader;
use super::request::{ClientFrame, ClientInfo, Cursor, Envelope, Hello};
use super::scan::scan;

/// Limits a server may be configured with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ParseLimits {
    /// Largest `body`: bytes of its compact form.
    pub max_body: usize,
}

impl Default for ParseLimits {
    fn default() -> Self {
        Self { max_body: MAX_BODY }
    }
}

/// Why a frame was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Reject {
    /// The frame's id when it could be read.
    pub id: Option<MsgId>,
    /// `bad_json`, `unknown_type`, `invalid_field` or `too_large`.
    pub code: ErrorCode,
    /// The top-level field at fault.
    pub field: Option<&'static str>,
    /// For people; holds nothing of the frame.
    pub message: String,
}

impl Reject {
    pub(super) fn new(id: Option<MsgId>, code: ErrorCode) -> Self {
        Self { id, code, field: None, message: code.default_message().to_owned() }
    }

    pub(super) fn fault(id: Option<MsgId>, code: ErrorCode, fault: &Fault) -> Self {
        let message = format!("The field {} {}.", fault.field, fault.reason);
        Self { id, code, field: Some(fault.field), message }
    }

    /// The frame that tells the client.
    #[must_use]
    pub fn into_frame(self) -> ErrorFrame {
        let frame = ErrorFrame::new(self.id, self.code).with_message(self.message);
        match self.field {
            Some(field) => frame.with_field(field),
            None => frame,
        }
    }
}

impl From<Reject> for ErrorFrame {
    fn from(reject: Reject) -> Self {
        reject.into_frame()
    }
}

/// What can be wrong behind a known `type`.
pub(super) enum Wrong {
    Type,
    Field(Fault),
    TooLarge(Fault),
}

impl From<Fault> for Wrong {
    fn from(fault: Fault) -> Self {
        Self::Field(fault)
    }
}

impl ClientFrame {
    /// Reads one text frame with the default limits.
    ///
    /// # Errors
    /// [`Reject`], to be sent back as it is.
    pub fn parse(text: &str) -> Result<Self, Reject> {
        Self::parse_with(text, &ParseLimits::default())
    }

    /// Reads one text frame.
    ///
    /// # Errors
    /// [`Reject`], to be sent back as it is.
    pub fn parse_with(text: &str, limits: &ParseLimits) -> Result<Self, Reject> {
        if scan(text, MAX_NESTING).is_err() {
            return Err(Reject::new(None, ErrorCode::BadJson));
        }
        let Some(fields) = Fields::read(text) else {
            return Err(Reject::new(None, ErrorCode::BadJson));
        };
        let id = fields.need_id::<MsgId>("id");
        let echo = id.as_ref().ok().cloned();
        let kind = fields.raw("type").and_then(as_text);
        client_frame(kind.as_deref().unwrap_or_default(), id, &fields, limits).map_err(|wrong| match wrong {
            Wrong::Type => Reject::new(echo, ErrorCode::UnknownType),
            Wrong::Field(fault) => Reject::fault(echo, ErrorCode::InvalidField, &fault),
            Wrong::TooLarge(fault) => Reject::fault(echo, ErrorCode::TooLarge, &fault),
        })
    }
}

fn client_frame(
    kind: &str,
    id: Result<MsgId, Fault>,
    fields: &Fields<'_>,
    limits: &ParseLimits,
) -> Result<ClientFrame, Wrong> {
    let frame = match kind {
        "ack" => ClientFrame::Ack { seq: fields.need_number("seq")? },
        "pong" => ClientFrame::Pong { seq: fields.need_number("seq")? },
        "typing" => ClientFrame::Typing { conv_id: fields.need_id("conv_id")? },
        "hello" => ClientFrame::Hello(hello(id?, fields)?),
        _ => {
            let read = reader(kind).ok_or(Wrong::Type)?;
            let id = id?;
            ClientFrame::Request(Envelope { id, request: read(fields, limits)? })
        }
    };
    Ok(frame)
}

fn hello(id: MsgId, fields: &Fields<'_>) -> Result<Hello, Fault> {
    Ok(Hello {
        id,
        token: fields.sized("token", 0..=MAX_TOKEN, str::len)?,
        device_id: fields.need_id("device_id")?,
        cursor: cursor(fields)?,
        conversations: held(fields)?,
        client: client_info(fields)?,
    })
}

fn cursor(fields: &Fields<'_>) -> Result<Option<Cursor>, Fault> {
    let field = "cursor";
    let Some(raw) = fields.raw(field) else {
        return Ok(None);
    };
    let read = || {
        let inner = Fields::read(raw.get())?;
        let epoch = inner.sized("epoch", 1..=MAX_EPOCH, str::len).ok()??;
        Some(Cursor { epoch, seq: inner.need_number("seq").ok()? })
    };
    read().map(Some).ok_or(Fault { field, reason: "must be an object with epoch and seq" })
}

fn held(fields: &Fields<'_>) -> Result<BTreeMap<ConvId, u64>, Fault> {
    let field = "conversations";
    let Some(raw) = fields.raw(field) else {
        return Ok(BTreeMap::new());
    };
    let inner = Fields::read(raw.get()).ok_or(Fault { field, reason: "must be an object" })?;
    if inner.iter().count() > MAX_HELLO_CONVERSATIONS {
        return Err(Fault { field, reason: "has too many entries" });
    }
    let entry = |(key, raw)| Some((ConvId::parse(key).ok()?, as_number(raw)?));
    let held = inner.iter().map(entry).collect::<Option<_>>();
    held.ok_or(Fault { field, reason: "must map conversation ids to integers" })
}

fn client_info(fields: &Fields<'_>) -> Result<Option<ClientInfo>, Fault> {
    let field = "client";
    let Some(raw) = fields.raw(field) else {
        return Ok(None);
    };
    let inner = Fields::read(raw.get()).ok_or(Fault { field, reason: "must be an object" })?;
    let text = |name| {
        let read = inner.sized(name, 0..=MAX_CLIENT_INFO_CHARS, characters);
        read.map_err(|_| Fault { field, reason: "has a name or version that is too long" })
    };
    Ok(Some(ClientInfo { name: text("name")?, version: text("version")? }))
}

pub(super) fn characters(text: &str) -> usize {
    text.chars().count()
}
