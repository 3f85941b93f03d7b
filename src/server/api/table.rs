//! The routes: what each is called, takes, gives and does. The router and the OpenAPI document are both
//! made from this table.

use axum::http::Method;
use futures::future::BoxFuture;
use schemars::{Schema, SchemaGenerator};

use super::call::{Answered, Call};
use super::{conversations, messages, users};
use crate::engine::Engine;
use crate::protocol::ErrorCode::{self, *};
use crate::protocol::api;

/// The schema of a type.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;
/// What a route does.
type Run = fn(Engine, Call) -> BoxFuture<'static, Answered>;

/// A parameter of the query, always optional.
pub(super) struct Param {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) kind: Kind,
}

/// What a parameter holds.
pub(super) enum Kind {
    Number { most: u64 },
    Text { most: usize },
    Word(&'static [&'static str]),
}

/// One method of one path.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    /// Name of the operation.
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) query: &'static [Param],
    /// Takes `Idempotency-Key`.
    pub(super) keyed: bool,
    pub(super) content: Option<SchemaOf>,
    pub(super) gives: SchemaOf,
    /// Beside those every route may answer.
    pub(super) errors: &'static [ErrorCode],
    pub(super) run: Run,
}

const PAGE: Param = Param { name: "page", about: "`next` of the page before.", kind: Kind::Text { most: 256 } };
const LIMIT: Param =
    Param { name: "limit", about: "Items of a page, 1-1000 (100).", kind: Kind::Number { most: 1000 } };
const NUMBER: Kind = Kind::Number { most: crate::protocol::limits::MAX_SAFE_INTEGER };

/// Makes a handler of the table of an async function.
macro_rules! run {
    ($handler:path) => {
        |engine, call| Box::pin($handler(engine, call))
    };
}

macro_rules! schema {
    ($type:ty) => {
        SchemaGenerator::subschema_for::<$type>
    };
}

/// All of them, by path.
pub(super) static ROUTES: &[Route] = &[
    Route {
        method: Method::POST,
        path: "/conversations",
        name: "createConversation",
        about: "Makes a group. With an `owner` it is as if he had made it, else it has none.",
        query: &[],
        keyed: true,
        content: Some(schema!(api::NewConversation)),
        gives: schema!(api::ConversationChanged),
        errors: &[],
        run: run!(conversations::create),
    },
    Route {
        method: Method::GET,
        path: "/conversations/{conv_id}",
        name: "getConversation",
        about: "The conversation as a whole.",
        query: &[],
        keyed: false,
        content: None,
        gives: schema!(api::ConversationInfo),
        errors: &[NotFound],
        run: run!(conversations::show),
    },
    Route {
        method: Method::PATCH,
        path: "/conversations/{conv_id}",
        name: "updateConversation",
        about: "Changes title and attributes; what is not given stays.",
        query: &[],
        keyed: false,
        content: Some(schema!(api::ConversationPatch)),
        gives: schema!(api::ConversationChanged),
        errors: &[NotFound, Forbidden, Gone],
        run: run!(conversations::update),
    },
    Route {
        method: Method::DELETE,
        path: "/conversations/{conv_id}",
        name: "dissolveConversation",
        about: "Ends it for every member, as if each had left at that entry. Members keep what they saw.",
        query: &[],
        keyed: false,
        content: None,
        gives: schema!(api::ConversationChanged),
        errors: &[NotFound, Forbidden],
        run: run!(conversations::dissolve),
    },
    Route {
        method: Method::GET,
        path: "/conversations/{conv_id}/members",
        name: "listMembers",
        about: "Present members by user_id.",
        query: &[PAGE, LIMIT],
        keyed: false,
        content: None,
        gives: schema!(api::MembersPage),
        errors: &[NotFound],
        run: run!(conversations::members),
    },
    Route {
        method: Method::POST,
        path: "/conversations/{conv_id}/members",
        name: "addMembers",
        about: "Lets up to 1,000 users join; with a `role`, members already there get it too.",
        query: &[],
        keyed: false,
        content: Some(schema!(api::AddMembers)),
        gives: schema!(api::ConversationChanged),
        errors: &[NotFound, Forbidden, Gone],
        run: run!(conversations::add),
    },
    Route {
        method: Method::DELETE,
        path: "/conversations/{conv_id}/members",
        name: "removeMembers",
        about: "Takes up to 1,000 users out; of a removed owner the next becomes owner.",
        query: &[],
        keyed: false,
        content: Some(schema!(api::RemoveMembers)),
        gives: schema!(api::ConversationChanged),
        errors: &[NotFound, Forbidden, Gone],
        run: run!(conversations::remove),
    },
    Route {
        method: Method::GET,
        path: "/conversations/{conv_id}/messages",
        name: "listMessages",
        about: "Messages as they stand: the newest, or one of `before`, `after`, `after_at`.",
        query: &[
            Param { name: "before", about: "Exclusive conv_seq.", kind: NUMBER },
            Param { name: "after", about: "Exclusive conv_seq.", kind: NUMBER },
            Param { name: "after_at", about: "Milliseconds, inclusive.", kind: NUMBER },
            Param { name: "limit", about: "Messages of a page, 1-200 (30).", kind: Kind::Number { most: 200 } },
        ],
        keyed: false,
        content: None,
        gives: schema!(api::MessagesPage),
        errors: &[NotFound],
        run: run!(messages::list),
    },
    Route {
        method: Method::POST,
        path: "/conversations/{conv_id}/messages",
        name: "sendMessage",
        about: "Sends as a user, by the same rules and with the same idempotence as his own `send`.",
        query: &[],
        keyed: true,
        content: Some(schema!(api::NewMessage)),
        gives: schema!(api::MessageSent),
        errors: &[NotFound, TooLarge, IdempotencyConflict],
        run: run!(messages::send),
    },
    Route {
        method: Method::POST,
        path: "/notifications",
        name: "notify",
        about: "Tells named users, each in the one order of his sync timeline, or everybody (`\"*\"`) by one entry of `b:all`.",
        query: &[],
        keyed: true,
        content: Some(schema!(api::NewNotification)),
        gives: schema!(api::NotificationMade),
        errors: &[TooLarge, IdempotencyConflict],
        run: run!(messages::notify),
    },
    Route {
        method: Method::GET,
        path: "/users/{user_id}/conversations",
        name: "listConversations",
        about: "A user's conversations as he is told them, most recent first.",
        query: &[Param { name: "active_after", about: "Milliseconds, exclusive.", kind: NUMBER }, PAGE, LIMIT],
        keyed: false,
        content: None,
        gives: schema!(api::ConversationsPage),
        errors: &[],
        run: run!(users::conversations),
    },
    Route {
        method: Method::GET,
        path: "/users/{user_id}/devices",
        name: "listDevices",
        about: "The devices of a user; `connected` is of the node asked.",
        query: &[],
        keyed: false,
        content: None,
        gives: schema!(api::DevicesList),
        errors: &[],
        run: run!(users::devices),
    },
    Route {
        method: Method::DELETE,
        path: "/users/{user_id}/devices/{device_id}",
        name: "revokeDevice",
        about: "Forgets the device, closes its socket (4504), refuses tokens for it issued until now.",
        query: &[],
        keyed: false,
        content: None,
        gives: schema!(api::Revoked),
        errors: &[],
        run: run!(users::revoke),
    },
    Route {
        method: Method::DELETE,
        path: "/users/{user_id}",
        name: "eraseUser",
        about: "Removes what is the user's own, ends his stays, revokes devices and tokens. Others keep what he \
                sent unless its bodies are to be erased too.",
        query: &[Param {
            name: "messages",
            about: "`erase`: as if he had recalled all he ever sent.",
            kind: Kind::Word(&["keep", "erase"]),
        }],
        keyed: false,
        content: None,
        gives: schema!(api::Erased),
        errors: &[],
        run: run!(users::erase),
    },
];

/// The paths, each once.
pub(super) fn paths() -> Vec<&'static str> {
    let mut paths: Vec<_> = ROUTES.iter().map(|route| route.path).collect();
    paths.dedup();
    paths.sort_unstable();
    paths.dedup();
    paths
}
