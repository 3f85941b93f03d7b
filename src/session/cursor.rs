//! Where a session stands in its user's sync timeline: pure arithmetic, no I/O.
//!
//! ```text
//!        acked                    sent              acked + window
//!   ------|========================|- - - - - - - - - - -|--------->  seq
//!          on its way to the client   room for frames
//! ```
//!
//! `sent` is the position: the next frame's `from_seq`. How it can hurt: a position moved without a
//! frame is a silent gap, so it moves in the named ways below only.

/// The client acknowledged what it was never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AckAhead;

/// Position, acknowledgement and window of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    sent: u64,
    acked: u64,
    /// The largest seq this client can know of: the bound of an acknowledgement.
    told: u64,
    window: u64,
}

impl Cursor {
    /// At `position`, all of it acknowledged.
    pub(super) fn at(position: u64, window: u64) -> Self {
        Self { sent: position, acked: position, told: position, window }
    }

    /// The position: what the next frame continues.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// The largest acknowledged seq.
    pub(super) fn acked(&self) -> u64 {
        self.acked
    }

    /// The largest seq a frame may reach now.
    pub(super) fn limit(&self) -> u64 {
        self.acked.saturating_add(self.window)
    }

    /// How many numbers may be sent now.
    pub(super) fn room(&self) -> u64 {
        self.limit().saturating_sub(self.sent)
    }

    /// A frame up to `to` goes out.
    pub(super) fn advance(&mut self, to: u64) {
        self.sent = self.sent.max(to);
        self.told = self.told.max(to);
    }

    /// The client acknowledges; lower or repeated is ignored. True when it moved.
    pub(super) fn ack(&mut self, seq: u64) -> Result<bool, AckAhead> {
        if seq > self.told {
            return Err(AckAhead);
        }
        let moved = seq > self.acked;
        self.acked = self.acked.max(seq);
        Ok(moved)
    }

    /// The client asks to go on from `position`, which says that it has everything up to there.
    pub(super) fn jump(&mut self, position: u64) {
        self.sent = position;
        self.acked = self.acked.max(position);
        self.told = self.told.max(position);
    }

    /// A reset: position and acknowledgement are the head.
    pub(super) fn reset(&mut self, head: u64) {
        *self = Self { told: self.told.max(head), ..Self::at(head, self.window) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_goes_beyond_the_window() {
        let mut cursor = Cursor::at(10, 500);
        assert_eq!((cursor.room(), cursor.limit()), (500, 510));
        cursor.advance(510);
        assert_eq!(cursor.room(), 0);
        assert_eq!(cursor.ack(100), Ok(true));
        assert_eq!(cursor.room(), 90);
        assert_eq!(cursor.ack(200), Ok(true));
        assert_eq!(cursor.room(), 190);
    }

    #[test]
    fn an_ack_only_moves_on_and_never_above_what_was_sent() {
        let mut cursor = Cursor::at(10, 500);
        assert_eq!(cursor.ack(11), Err(AckAhead));
        cursor.advance(20);
        assert_eq!(cursor.ack(15), Ok(true));
        assert_eq!(cursor.ack(15), Ok(false));
        assert_eq!(cursor.ack(3), Ok(false));
        assert_eq!(cursor.acked(), 15);
    }

    #[test]
    fn going_back_keeps_what_was_acknowledged() {
        let mut cursor = Cursor::at(10, 500);
        cursor.advance(300);
        assert_eq!(cursor.ack(300), Ok(true));
        cursor.jump(50);
        assert_eq!((cursor.sent(), cursor.acked()), (50, 300));
        assert_eq!(cursor.ack(300), Ok(false));
        cursor.jump(400);
        assert_eq!((cursor.sent(), cursor.acked()), (400, 400));
        cursor.reset(350);
        assert_eq!((cursor.sent(), cursor.acked(), cursor.room()), (350, 350, 500));
    }
}
