//! What a client tells its application, unasked.
//!
//! The channel is bounded and never waited for: an application that does not read loses events, not
//! state. It is told so by [`Event::Lagged`] and reads the state anew. So nothing an application does
//! or leaves undone keeps its device from catching up.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::error::{SendError, StopReason};
use super::outbox::OutboxItem;
use crate::protocol::{ConvId, Entry, Event as LogEvent, MsgId, ResetReason, UserId, UserPresence};

/// How the connection stands. Only in `Live` is the state known to be current.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum ConnectionState {
    /// No connection. With a reason: it does not come back by itself.
    Disconnected(Option<StopReason>),
    /// On the way to one.
    #[default]
    Connecting,
    /// Connected; what is shown may be old.
    Syncing,
    /// Everything up to the head is applied, and no reset is open.
    Live,
}

/// A message's place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sent {
    /// Where.
    pub conv_id: ConvId,
    /// Its number there.
    pub conv_seq: u64,
    /// Milliseconds, server clock.
    pub sent_at: u64,
    /// It had been accepted before.
    pub duplicate: bool,
}

/// One thing to know.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The connection stands otherwise.
    StateChanged(ConnectionState),
    /// Entries of the sync timeline, applied and saved.
    Applied {
        /// In order.
        entries: Arc<[Entry]>,
        /// They may ring.
        live: bool,
    },
    /// Entries of a large conversation's own log, applied and saved.
    Log {
        /// Which.
        conv_id: ConvId,
        /// In order.
        events: Arc<[LogEvent]>,
    },
    /// Something was loaded: read these anew.
    Updated(Vec<ConvId>),
    /// The server could not continue from the cursor.
    Reset(ResetReason),
    /// The reset is over: the state is that of a device that was never behind.
    Reconciled,
    /// A message of the outbox was accepted.
    Sent {
        /// Which.
        client_msg_id: MsgId,
        /// Where it is now.
        sent: Sent,
    },
    /// A message of the outbox was given up and taken out.
    Failed {
        /// The message.
        item: OutboxItem,
        /// Why.
        error: SendError,
    },
    /// Somebody is typing.
    Typing {
        /// Where.
        conv_id: ConvId,
        /// Who.
        user_id: UserId,
    },
    /// Somebody came or went.
    Presence(Vec<UserPresence>),
    /// So many events were dropped because nobody read them: read the state anew.
    Lagged(u64),
}

/// The receiving end. Dropping it is fine: the client works on.
#[derive(Debug)]
pub struct Events(pub(super) mpsc::Receiver<Event>);

impl Events {
    /// The next event; `None` when the client has stopped and all are read. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}

/// The sending end.
#[derive(Debug)]
pub(super) struct EventSender {
    channel: mpsc::Sender<Event>,
    missed: u64,
}

impl EventSender {
    pub(super) fn new(channel: mpsc::Sender<Event>) -> Self {
        Self { channel, missed: 0 }
    }

    pub(super) fn send(&mut self, event: Event) {
        self.tell_missed();
        if self.missed > 0 || matches!(self.channel.try_send(event), Err(mpsc::error::TrySendError::Full(_))) {
            self.missed += 1;
        }
    }

    fn tell_missed(&mut self) {
        if self.missed > 0 && self.channel.try_send(Event::Lagged(self.missed)).is_ok() {
            self.missed = 0;
        }
    }

    /// Ends when dropped events have been reported; never when there are none.
    pub(super) async fn report_missed(&mut self) {
        if self.missed == 0 {
            return std::future::pending().await;
        }
        // An error: nobody listens any more.
        if let Ok(permit) = self.channel.reserve().await {
            permit.send(Event::Lagged(self.missed));
        }
        self.missed = 0;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_channel_loses_events_and_says_how_many() {
        let (tx, mut rx) = mpsc::channel(2);
        let mut sender = EventSender::new(tx);
        for _ in 0..5 {
            sender.send(Event::Reconciled);
        }
        assert_eq!(rx.recv().await, Some(Event::Reconciled));
        sender.report_missed().await;
        assert_eq!(rx.recv().await, Some(Event::Reconciled));
        assert_eq!(rx.recv().await, Some(Event::Lagged(3)));
        sender.send(Event::Reconciled);
        assert_eq!(rx.recv().await, Some(Event::Reconciled));
        drop(rx);
        sender.send(Event::Reconciled);
        assert_eq!(sender.missed, 0);
    }
}
