//! A conversation as the application's server reads it: all of it, as nobody.

use super::{Answer, Reader, Seen, refused};
use crate::conversation::Refusal;
use crate::conversation::decide::NotDecided;
use crate::conversation::member::Member;
use crate::conversation::ranges::Ranges;
use crate::conversation::rows::{self, Info};
use crate::conversation::user_row::UserRow;
use crate::conversation::view::View;
use crate::protocol::api::ConversationInfo;
use crate::protocol::{ConvId, ConversationKind, ErrorCode, HistoryFrom, Role, UserId};
use crate::store::{Store, TimelineId};

/// Whom the server is taken for where a reader is needed; it has no row of its own.
const NOBODY: &str = ".server";

/// All of it, nothing hidden.
async fn seen(store: &dyn Store, id: &ConvId) -> Result<Seen, NotDecided> {
    let timeline = TimelineId::Conversation(id.clone());
    let head = store.head(&timeline).await?;
    let info = rows::read::<Info>(store, &timeline, &rows::state_key()).await?;
    let info = info.ok_or(NotDecided::from(ErrorCode::NotFound))?;
    let member = Member::joining(1, Role::Member, 0);
    let view = View { id: id.clone(), timeline, head, info, member };
    Ok(Seen { view, row: UserRow::default(), hidden: Ranges::default() })
}

fn nobody() -> Result<UserId, NotDecided> {
    UserId::parse(NOBODY).map_err(|_| NotDecided::from(ErrorCode::Unavailable))
}

/// The conversation as a whole.
///
/// # Errors
/// `not_found`, `unavailable`.
pub async fn info(store: &dyn Store, id: &ConvId) -> Result<ConversationInfo, Refusal> {
    let Seen { view, .. } = seen(store, id).await.map_err(refused)?;
    let View { info, head, .. } = view;
    Ok(ConversationInfo {
        conv_id: id.clone(),
        kind: if info.direct { ConversationKind::Direct } else { ConversationKind::Group },
        large: info.is_large(),
        title: info.title,
        attributes: info.attributes,
        history: info.history,
        head_seq: head.position.seq,
        members_count: info.members_count,
        dissolved: info.dissolved_at.is_some(),
    })
}

/// `history`, of everything.
///
/// # Errors
/// `not_found`, `unavailable`.
pub async fn messages(store: &dyn Store, id: &ConvId, from: HistoryFrom, limit: u32) -> Answer {
    let read = async {
        let (seen, user) = (seen(store, id).await?, nobody()?);
        Reader { store, user: &user }.history_of(&seen, from, limit as usize).await
    };
    read.await.map_err(refused)
}

/// `members`.
///
/// # Errors
/// `not_found`, `invalid_field` for a page that was not ours, `unavailable`.
pub async fn members(store: &dyn Store, id: &ConvId, page: Option<&str>, limit: u32) -> Answer {
    let read = async {
        let (seen, user) = (seen(store, id).await?, nobody()?);
        Reader { store, user: &user }.members_of(&seen, page, limit as usize).await
    };
    read.await.map_err(refused)
}
