//! What sessions count. Handles of hot counters are looked up once, when the server starts.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::protocol::{ClientFrame, ErrorCode, Request, ResetReason};

pub(super) struct Meters {
    pub(super) sessions: Gauge,
    hellos: Counter,
    acks: Counter,
    pongs: Counter,
    sends: Counter,
    requests: Counter,
    invalid: Counter,
    pub(super) syncs_out: Counter,
    pub(super) heads_out: Counter,
    pub(super) answers_out: Counter,
    pub(super) pings_out: Counter,
    pub(super) ephemeral_out: Counter,
    pub(super) welcomes_out: Counter,
    pub(super) messages: Counter,
    pub(super) pages: Counter,
    pub(super) page_seconds: Histogram,
}

impl Meters {
    /// Looks the handles up in the recorder installed at this moment.
    pub(super) fn new() -> Self {
        let frames_in = |kind: &'static str| counter!("everline_frames_in_total", "type" => kind);
        let frames_out = |kind: &'static str| counter!("everline_frames_out_total", "type" => kind);
        Self {
            sessions: gauge!("everline_sessions"),
            hellos: frames_in("hello"),
            acks: frames_in("ack"),
            pongs: frames_in("pong"),
            sends: frames_in("send"),
            requests: frames_in("request"),
            invalid: frames_in("invalid"),
            syncs_out: frames_out("sync"),
            heads_out: frames_out("heads"),
            answers_out: frames_out("answer"),
            pings_out: frames_out("ping"),
            ephemeral_out: frames_out("ephemeral"),
            welcomes_out: frames_out("welcome"),
            messages: counter!("everline_messages_total"),
            pages: counter!("everline_page_reads_total"),
            page_seconds: histogram!("everline_page_read_seconds"),
        }
    }

    /// A frame came in; `None` when it could not be read.
    pub(super) fn frame_in(&self, frame: Option<&ClientFrame>) {
        match frame {
            Some(ClientFrame::Hello(_)) => &self.hellos,
            Some(ClientFrame::Ack { .. }) => &self.acks,
            Some(ClientFrame::Pong { .. }) => &self.pongs,
            Some(ClientFrame::Request(envelope)) if matches!(envelope.request, Request::Send(_)) => &self.sends,
            Some(ClientFrame::Request(_) | ClientFrame::Typing { .. }) => &self.requests,
            None => &self.invalid,
        }
        .increment(1);
    }

    pub(super) fn error_out(&self, code: ErrorCode) {
        counter!("everline_errors_total", "code" => code.as_str()).increment(1);
    }

    pub(super) fn reset_out(&self, reason: ResetReason) {
        let reason = match reason {
            ResetReason::TooOld => "too_old",
            ResetReason::EpochMismatch => "epoch_mismatch",
            ResetReason::Ahead => "ahead",
        };
        counter!("everline_resets_total", "reason" => reason).increment(1);
    }
}

/// Counts a session as long as it lives.
pub(super) struct Counted(Gauge);

impl Counted {
    pub(super) fn new(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
