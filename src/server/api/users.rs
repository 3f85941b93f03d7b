//! Users: their devices, their conversations, and their end.

use super::call::{Answered, Call, answer};
use super::conversations::on_behalf;
use crate::engine::{Engine, Refusal};
use crate::protocol::api::{ConversationsPage, DevicesList, Revoked};
use crate::protocol::limits::{DEFAULT_PAGE_LIMIT, MAX_PAGE_LIMIT};
use crate::protocol::{AnswerBody, DeviceId, ErrorCode, Request, UserId};

pub(super) async fn devices(engine: Engine, call: Call) -> Answered {
    let user: UserId = call.id("user_id", "user_id")?;
    answer(&DevicesList { devices: engine.devices_of(&user).await? })
}

pub(super) async fn revoke(engine: Engine, call: Call) -> Answered {
    let (user, device) = (call.id("user_id", "user_id")?, call.id::<DeviceId>("device_id", "device_id")?);
    answer(&Revoked { revoked_at: engine.revoke(&user, &device).await? })
}

pub(super) async fn conversations(engine: Engine, call: Call) -> Answered {
    let user: UserId = call.id("user_id", "user_id")?;
    let active_after = call.number("active_after")?;
    let (page, limit) = (call.page()?.map(str::to_owned), call.limit(DEFAULT_PAGE_LIMIT, MAX_PAGE_LIMIT)?);
    let request = Request::Conversations { active_after, page, limit };
    match engine.submit(&on_behalf(&user)?, request).await? {
        AnswerBody::Conversations { conversations, next } => answer(&ConversationsPage { conversations, next }),
        _ => Err(Refusal::new(ErrorCode::Unavailable).into()),
    }
}

pub(super) async fn erase(engine: Engine, call: Call) -> Answered {
    let user: UserId = call.id("user_id", "user_id")?;
    let messages = call.word("messages", &["keep", "erase"])? == "erase";
    answer(&engine.erase(&user, messages).await?)
}
