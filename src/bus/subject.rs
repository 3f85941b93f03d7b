//! What a note is about, and its name on the bus.

use std::fmt::{self, Write};

use crate::protocol::{ConvId, UserId};

/// Where a note is published and heard.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// Everything a user's sessions must learn; heard where he has one.
    User(UserId),
    /// A large conversation; heard where a member has a session.
    Conversation(ConvId),
    /// Whether a user is connected and types; heard where a session watches him.
    Presence(UserId),
    /// One node, by its incarnation: answers to what it asked.
    Node(u64),
    /// Every node.
    Nodes,
}

impl fmt::Display for Subject {
    /// The name in NATS: tokens between dots. An id's own dots become `/`, which no id contains, so
    /// that different ids have different names and none reaches into another's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut token = |kind: &str, id: &str| {
            write!(f, "everline.{kind}.")?;
            id.chars().try_for_each(|c| f.write_char(if c == '.' { '/' } else { c }))
        };
        match self {
            Self::User(user) => token("user", user),
            Self::Conversation(conversation) => token("conversation", conversation),
            Self::Presence(user) => token("presence", user),
            Self::Node(node) => token("node", &format!("{node:016x}")),
            Self::Nodes => f.write_str("everline.nodes"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_one_token_of_its_own() {
        let user = |id: &str| Subject::User(UserId::parse(id).unwrap()).to_string();
        assert_eq!(user("alice"), "everline.user.alice");
        assert_eq!(user("."), "everline.user./");
        assert_eq!(user("a.b_c@d-e"), "everline.user.a/b_c@d-e");
        let conversation = ConvId::parse("d:a.b:c.d").unwrap();
        assert_eq!(Subject::Conversation(conversation).to_string(), "everline.conversation.d:a/b:c/d");
        assert_eq!(Subject::Presence(UserId::parse("a").unwrap()).to_string(), "everline.presence.a");
        assert_eq!(Subject::Node(255).to_string(), "everline.node.00000000000000ff");
        assert_eq!(Subject::Nodes.to_string(), "everline.nodes");
    }
}
