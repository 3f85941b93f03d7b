//! Planted bugs: faults put in on purpose, to prove that the tests would notice them.
//!
//! Only a build with `--cfg planted_bugs` contains them; there one is chosen at run time by name
//! (`EVERLINE_PLANTED=NoFence`, or `choose` for the present thread). In every other build [`planted`]
//! is a constant `false`, checked when compiling (below), so each hook is removed with its branch.
//!
//! A hook is one line at the place where the rule is kept. How it can hurt: a bug that no test finds
//! proves nothing about the code, it shows a blind spot; `tests/rules` fails then.

macro_rules! bugs {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// What can be planted. The number in front is the rule of the design (section 4) that it takes
        /// out; a dash stands before those that break a promise of section 1 or 2 directly.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Bug {
            $($(#[$doc])+ $name,)+
        }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Bug] = &[$(Bug::$name,)+];
        }
    };
}

bugs! {
    /// 1: who receives an entry is decided by who is a member now.
    MembersOfNow,
    /// 1: a gap is filled by number, not by what the log addresses to the user.
    GapFilledByNumber,
    /// 1: changes made between two stays are not handed over at the rejoin.
    RejoinForgetsChanges,
    /// 1: a message of the past goes to one who has joined since.
    StaysIgnored,
    /// 2: a conversation's lane keeps its rows after a refusal; only the head is read anew.
    RowsKeptAfterRefusal,
    /// 2: a user's lane keeps its rows after a refusal; only the head is read anew.
    InboxKeptAfterRefusal,
    /// 2: a doubtful refusal is taken for another's commit without looking at the attempt.
    DoubtTakenForTheirs,
    /// 2: a doubtful refusal is taken for our own commit without looking at the attempt.
    DoubtTakenForOurs,
    /// 2: after an unknown outcome the head is read and the entry numbered anew.
    RenumberedAfterUnknown,
    /// 2: sessions are not told of what a refusal has revealed.
    RefusalToldToNobody,
    /// 2: timelines that are decided wait for one that is not.
    OneHoldsUpAll,
    /// 3: no mark is written.
    NoMark,
    /// 3: the mark is written after the append.
    MarkAfterAppend,
    /// 3: who takes over does not raise the term.
    NoFence,
    /// 3: a mark written under another term is trusted.
    MarkOutlivesTerm,
    /// 3: the key of a deleted mark is used again.
    MarkKeyReused,
    /// 3: the mark is deleted while deliveries are under way.
    MarkDeletedEarly,
    /// 3: a new mark begins at the head though earlier deliveries are under way.
    MarkForgetsOpen,
    /// 3, embedded: `fanned` counts deliveries that wait in busy lanes.
    FannedTooEarly,
    /// 3, embedded: opening finishes nothing.
    RecoveryForgotten,
    /// 3: what dead nodes have left is not looked for.
    DeadLeftAlone,
    /// 3: a node that cannot say that it is alive says that it is ready.
    SilentNodeReady,
    /// 4: a request that changes nothing is judged by what the lane knew, not by the log.
    JudgedByCache,
    /// 4: a reader is told of entries after his leave.
    LeaverReadsOn,
    /// 4: whether an edit's message was recalled is not looked up when a page is read.
    EditServedAfterRecall,
    /// 5: the answer does not wait for the caller's own timeline.
    AnswerBeforeOwnEffect,
    /// 5: a repeated request is answered though its effect still waits in the caller's lane.
    DuplicateBeforeOwnEffect,
    /// 6: a request whose caller has given up waiting is dropped.
    AbandonedRequestDropped,
    /// 7: the reading is committed before the receipt.
    ReceiptAfterRead,
    /// 7: a recall is written only for those who are here.
    RecallSkipsOffLine,
    /// 7: everybody is in `b:all` from its beginning, whenever he came.
    NewcomerReadsAll,
    /// 7: each new device begins its user's `b:all` anew.
    EachDeviceANewcomer,
    /// 8: a recall subtracts though its target was read.
    RecallAlwaysSubtracts,
    /// 8: a recount knows of recalls not yet delivered.
    RecountSeesAhead,
    /// 8: a joiner starts with nothing read.
    JoinerReadNothing,
    /// 9: an entry's time is the clock's.
    TimeGoesBack,
    /// 9: a floor by age is not stored.
    FloorNotStored,
    /// 9: a page with a gap is sent.
    PageWithGap,
    /// 9: a page may start one below the floor.
    ReadPastFloor,
    /// 9: a page starts at the cursor, not after it.
    InclusiveCursor,
    /// 9: a node whose clock is far behind says that it is ready.
    ClockBehindReady,
    /// 10: what is committed together with the crossing is left to the log, the crossing too.
    CrossingToldByLog,
    /// 10: who is mentioned is not told by his own timeline.
    MentionForgotten,
    /// 10: a follower is told of entries after the end of his stay.
    StayEndUnnoticed,
    /// 10: nobody looks whether a silent bus has hidden something.
    SilenceBelieved,
    /// 10: one's own messages count as unread.
    OwnCountAsUnread,
    /// 10: a recall drops what the entry carries for all that is counted.
    RecallDropsCounts,
    /// 10: a recalled body stays among the newest texts.
    RecalledTextTold,
    /// 12: notes about other data, of another epoch, are heard.
    ForeignNoteHeard,
    /// 12: `duplicate` is answered after membership is checked.
    DuplicateCheckedLast,
    /// 12: the name of a new conversation does not follow from (creator, op_id).
    CreateMakesAnother,
    /// 13: a client takes an older answer's body back in.
    OlderAnswerBelieved,
    /// -: a session follows though something was pushed since its last page.
    LostWakeUp,
    /// -: what does not fit a session's queue is dropped and the session goes on.
    OverflowForgotten,
    /// -: what another node pushes goes out though it does not continue what was sent.
    HintTrusted,
    /// -: a session is registered when its head has been read.
    HeadBeforeSeat,
    /// -: a heartbeat tells the head this node has heard of, not the store's.
    HeartbeatWithoutHead,
    /// -: a device's older connection to another node stays.
    OlderConnectionStays,
    /// -: sessions at other nodes are not asked to close.
    CloseStaysHere,
    /// -: answered before the commit is durable.
    AckBeforeDurable,
    /// -: sessions are told before the commit is durable.
    PushedBeforeDurable,
    /// -: an unknown outcome is taken for applied.
    UnknownTakenForApplied,
    /// -: what was sent before a restart is not remembered.
    DedupeForgotten,
    /// -: the head is kept with the entries and expires with them.
    HeadExpires,
    /// -: a delivery does not look whether the entry is already there.
    DeliveredIgnored,
    /// -: a delete of a message not yet delivered is forgotten when it comes.
    DeleteOvertaken,
    /// -: a recall leaves the body in the store.
    BodyNotErased,
}

impl Bug {
    /// The bug of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|bug| format!("{bug:?}") == name)
    }
}

/// Whether this bug is planted: never, in this build.
#[cfg(not(planted_bugs))]
#[inline(always)]
pub const fn planted(_: Bug) -> bool {
    false
}

#[cfg(not(planted_bugs))]
const _: () = {
    let mut index = 0;
    while index < Bug::ALL.len() {
        assert!(!planted(Bug::ALL[index]), "an ordinary build holds no planted bug");
        index += 1;
    }
};

#[cfg(planted_bugs)]
pub use chosen::{choose, planted};

#[cfg(planted_bugs)]
mod chosen {
    use std::cell::Cell;
    use std::sync::OnceLock;

    use super::Bug;

    thread_local! {
        static HERE: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants a bug for everything that runs on this thread from now on; `None` takes it out.
    pub fn choose(bug: Option<Bug>) {
        HERE.set(bug);
    }

    /// Whether this bug is planted, here or in the whole process.
    pub fn planted(bug: Bug) -> bool {
        static EVERYWHERE: OnceLock<Option<Bug>> = OnceLock::new();
        let everywhere = EVERYWHERE.get_or_init(|| std::env::var("EVERLINE_PLANTED").ok().map(|name| named(&name)));
        HERE.get() == Some(bug) || *everywhere == Some(bug)
    }

    #[expect(clippy::panic, reason = "a misspelt bug would look like one that no test finds")]
    fn named(name: &str) -> Bug {
        Bug::named(name).unwrap_or_else(|| panic!("EVERLINE_PLANTED={name}: no such bug"))
    }
}
