//! One reader for each request: which fields it has and what each may hold.
//!
//! Part of `parse`, which finds the frame's type and id. Faults name the top-level field.

use super::body::Body;
use super::fields::{Fault, Fields, as_array, as_number};
use super::limits::{
    DEFAULT_HISTORY_LIMIT, DEFAULT_PAGE_LIMIT, MAX_ATTRIBUTES, MAX_HISTORY_LIMIT, MAX_KEY, MAX_MENTIONS, MAX_PAGE,
    MAX_PAGE_LIMIT, MAX_RANGES, MAX_TITLE_CHARS, MAX_TOKEN, MAX_USERS,
};
use super::parse::{ParseLimits, Wrong, characters};
use super::request::{HistoryFrom, Range, Request, Send, SendTo};

pub(super) type Reader = fn(&Fields<'_>, &ParseLimits) -> Result<Request, Wrong>;

/// The reader of a request's fields; `None` for a type that is no request.
pub(super) fn reader(kind: &str) -> Option<Reader> {
    Some(match kind {
        "send" => send,
        "recall" => recall,
        "edit" => edit,
        "react" => react,
        "delete" => delete,
        "clear" => clear,
        "read" => read,
        "settings" => settings,
        "create" => create,
        "invite" => invite,
        "remove" => remove,
        "leave" => leave,
        "update" => update,
        "role" => role,
        "sync" => sync,
        "history" => history,
        "changes" => changes,
        "conversations" => conversations,
        "members" => members,
        "presence" => presence,
        "auth" => auth,
        "devices" => devices,
        "logout" => logout,
        _ => return None,
    })
}

pub(super) fn body(fields: &Fields<'_>, limits: &ParseLimits) -> Result<Body, Wrong> {
    fields.need("body")?;
    match fields.object("body")? {
        Some(body) if body.len() <= limits.max_body => Ok(body),
        _ => Err(Wrong::TooLarge(Fault { field: "body", reason: "is over the limit" })),
    }
}

fn send(fields: &Fields<'_>, limits: &ParseLimits) -> Result<Request, Wrong> {
    let to = match (fields.id("conv_id")?, fields.id("to")?) {
        (Some(conv_id), None) => SendTo::Conv(conv_id),
        (None, Some(user_id)) => SendTo::User(user_id),
        (None, None) => {
            return Err(Fault { field: "conv_id", reason: "or to is missing" }.into());
        }
        (Some(_), Some(_)) => {
            return Err(Fault { field: "to", reason: "and conv_id exclude each other" }.into());
        }
    };
    Ok(Request::Send(Send {
        to,
        client_msg_id: fields.need_id("client_msg_id")?,
        body: body(fields, limits)?,
        reply_to: fields.position("reply_to")?,
        mentions: fields.ids("mentions", 0..=MAX_MENTIONS)?.unwrap_or_default(),
    }))
}

fn recall(fields: &Fields<'_>, _: &ParseLimits) -> Result<Request, Wrong> {
    let conv_id = fields.need_id("conv_id")?;
    Ok(Request::Recall { conv_id, target: fields.need_position("target")? })
}

fn edit(fields: &Fields<'_>, limits: &ParseLimits) -> Result<Request, Wrong> {
    Ok(Request::Edit {
        conv_id: fields.need_id("conv_id")?,
        target: fields.need_position("target")?,
        body: body(fields, limits)?,
    })
}

fn react(fields: &Fields<'_>, _: &ParseLimits) -> Result<Request, Wrong> {
    Ok(Request::React {
        conv_id: fields.need_id("conv_id")?,
        target: fields.need_position("target")?,
        key: need(fields.sized("key", 1..=MAX_KEY, str::len), "key")?,
        add: need(fields.flag("add"), "add")?,
    })
}

pub(super) fn need<T>(read: Result<Option<T>, Fault>, field: &'static str) -> Result<T, Fault> {
    read?.ok_or(Fault { field, reason: "is missing" })
}

fn delete(fields: &Fields<'_>, _: &ParseLimits) -> Result<Request, Wrong> {
    let conv_id = fields.need_id("conv_id")?;
    let field = "ranges";
    let raw = fields.need(field)?;
    let items = as_array(raw).ok_or(Fault { field, reason: "must be an array" })?;
    if items.is_empty() || items.len() > MAX_RANGES {
        return Err(Fault { field, reason: "has too few or too many items" }.into());
    }
    let ranges = items.into_iter().map(|item| {
        let [from, to] = as_array(item)?.try_into().ok()?;
        let range = Range { from: as_number(from)?, to: as_number(to)? };
        (1 <= range.from && range.from <= range.to).then_some(range)
    });
    let ranges = ranges.collect::<Option<_>>();
    let ranges = ranges.ok_or(Fault { field, reason: "must hold pairs, 1 <= from <= to" })?;
    Ok(Request::Delete { conv_id, ranges })
}

fn clear(fields: &Fields<'_>, _: &ParseLimits) -> Result<Request, Wrong> {
    let conv_id = fields.need_id("conv_id")?;
    Ok(Request::Clear { conv_id, up_to: fields.need_number("up_to")? })
}

fn read(fields: &Fields<'_>, _: &ParseLimits) -> Result<Request, Wrong> {
    let conv_id = fields.need_id("conv_id")?;
    Ok(Request::Read { conv_id, read_seq: fields.need_number("read_seq")? })
}

fn settings(fields: &Fields<'_>, _: &ParseLimits) -> Result<Request, Wrong> {
    let conv_id = fields.need_id("conv_id")?;
    let muted = fields.flag("muted")?;
    let pinned = fields.flag("pinned")?;
    let hidden = fields.flag("hidden")?;
    if muted.or(pinned).or(hidden).is_none() {
        let reason = "is missing, as are pinned and hidden: one is needed";
        return Err(Fault { field: "muted", reason }.into());
    }
    Ok(Request::Settings { conv_id, muted, pinned, hidden })
}

pub(super) fn title(fields: &Fields<'_>) -> Result<Option<String>, Fault> {
    fields.sized("title", 1..=MAX_TITLE_CHARS, characters)
}

pub(super) fn attributes(fields: &Fields<'_>) -> Result<Option<Body>, Fault> {
    let field = "attributes";
    match fields.object(field)? {
        Some(object) if object.len() > MAX_ATTRIBUTES => Err(Fault { field, reason: "is too long" }),
        attributes => Ok(attributes),
    }
}

fn create(fields: &Fields<'_>, _: &ParseLimits) -> Result<Request, Wrong> {
    Ok(Request::Create {
        members: need(fields.ids("members", 1..=MAX_USERS), "members")?,
        title: title(fields)?,
        attributes: attributes(fields)?,
        history: fields.word("history")?.unwrap_or_default(),
        op_id: fields.need_id("op_id")?,
    })
}

fn invite(fields: &Fields<'_>, _: &ParseLimits) -> Result<Request, Wrong> {
    let conv_id = fields.need_id("conv_id")?;
    Ok(Request::Invite { conv_id, users: need(fields.ids("users", 1..=MAX_USERS), "users")? })
}

fn remove(fields: &Fields<'_>, _: &ParseLimits) -> Result<Request, Wrong> {
    let conv_id = fields.need_id("conv_id")?;
    Ok(Request::Remove { conv_id, users: need(fields.ids("users", 1..=MAX_USERS), "users")? })
}

fn leave(fields: &Fields<'_>, _: &ParseLimits) -> Result<Request, Wrong> {
    Ok(Request::Leave { conv_id: fields.need_id("conv_id")? })
}

fn update(fields: &Fields<'_>, _: &ParseLimits) -> Result<Request, Wrong> {
    let conv_id = fields.need_id("conv_id")?;
    Ok(Request::Update { conv_id, title: title(fields)?, attributes: attributes(fields)? })
}

fn role(fields: &Fields<'_>, _: &ParseLimits) -> Result<Request, Wrong> {
    Ok(Request::Role {
        conv_id: fields.need_id("conv_id")?,
        user_id: fields.need_id("user_id")?,
        role: need(fields.word("role"), "role")?,
    })
}

fn sync(fields: &Fields<'_>, _: &ParseLimits) -> Result<Request, Wrong> {
    Ok(Request::Sync { after_seq: fields.need_number("after_seq")? })
}

fn history_from(fields: &Fields<'_>) -> Result<HistoryFrom, Fault> {
    let before = fields.number("before")?.map(HistoryFrom::Before);
    let after = fields.number("after")?.map(HistoryFrom::After);
    let after_at = fields.number("after_at")?.map(HistoryFrom::AfterAt);
    let reason = "excludes the others of its kind";
    match (before, after, after_at) {
        (Some(_), Some(_), _) => Err(Fault { field: "after", reason }),
        (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => Err(Fault { field: "after_at", reason }),
        (before, after, after_at) => Ok(before.or(after).or(after_at).unwrap_or_default()),
    }
}

fn history(fields: &Fields<'_>, _: &ParseLimits) -> Result<Request, Wrong> {
    let conv_id = fields.need_id("conv_id")?;
    let from = history_from(fields)?;
    let limit = fields.limit("limit", DEFAULT_HISTORY_LIMIT, MAX_HISTORY_LIMIT)?;
    Ok(Request::History { conv_id, from, limit })
}

fn changes(fields: &Fields<'_>, _: &ParseLimits) -> Result<Request, Wrong> {
    let conv_id = fields.need_id("conv_id")?;
    Ok(Request::Changes { conv_id, since: fields.need_number("since")? })
}

fn conversations(fields: &Fields<'_>, _: &ParseLimits) -> Result<Request, Wrong> {
    Ok(Request::Conversations {
        active_after: fields.number("active_after")?,
        page: fields.sized("page", 1..=MAX_PAGE, str::len)?,
        limit: fields.limit("limit", DEFAULT_PAGE_LIMIT, MAX_PAGE_LIMIT)?,
    })
}

fn members(fields: &Fields<'_>, _: &ParseLimits) -> Result<Request, Wrong> {
    Ok(Request::Members {
        conv_id: fields.need_id("conv_id")?,
        page: fields.sized("page", 1..=MAX_PAGE, str::len)?,
        limit: fields.limit("limit", DEFAULT_PAGE_LIMIT, MAX_PAGE_LIMIT)?,
    })
}

fn presence(fields: &Fields<'_>, _: &ParseLimits) -> Result<Request, Wrong> {
    Ok(Request::Presence { users: need(fields.ids("users", 1..=MAX_USERS), "users")? })
}

fn auth(fields: &Fields<'_>, _: &ParseLimits) -> Result<Request, Wrong> {
    Ok(Request::Auth { token: need(fields.sized("token", 0..=MAX_TOKEN, str::len), "token")? })
}

#[expect(clippy::unnecessary_wraps, reason = "one of the readers")]
fn devices(_: &Fields<'_>, _: &ParseLimits) -> Result<Request, Wrong> {
    Ok(Request::Devices)
}

fn logout(fields: &Fields<'_>, _: &ParseLimits) -> Result<Request, Wrong> {
    Ok(Request::Logout { device_id: fields.need_id("device_id")? })
}
