//! The rules of the design (section 4), each with scenarios of the real code that fail when it is
//! taken out: `cargo test --test rules` proves the promises; built with `--cfg planted_bugs`
//! (`scripts/planted`) it also plants every bug of `everline::planted` and demands that every scenario
//! said to notice it does.
//!
//! Everything is deterministic: tokio's paused clock, one thread, a simulated store whose writes are
//! stopped at exact moments.
//!
//! Not here: rule 11 (buckets, CQL only: `tests/cql_buckets.rs`), of rule 12 the new epoch after a restore.
//! Rule 13 is the client library's own, one scenario here.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs, unreachable_pub)]

#[path = "../between/mod.rs"]
mod between;
mod crash;
mod gate;
mod nodes;
mod oracle;
mod receiving;
mod rule_10_large;
mod rule_1_addressed;
mod rule_2_refusal;
mod rule_3_marks;
mod rule_4_reads;
mod rule_5_own_effect;
mod rule_7_everything;
mod rule_9_time;
mod socket;
mod world;

use std::pin::Pin;
use std::time::Duration;

use world::Proof;

/// A scenario, and the planted bugs it must notice.
struct Promise {
    name: &'static str,
    scenario: fn() -> Pin<Box<dyn Future<Output = Proof>>>,
    #[cfg_attr(not(planted_bugs), expect(dead_code, reason = "of use only with planted bugs"))]
    notices: &'static [everline::planted::Bug],
}

/// Virtual time after which a scenario has hung.
const HUNG: Duration = Duration::from_secs(2 * 24 * 3600);

/// Runs a scenario on a clock of its own. Panics are failures like any other.
fn prove(promise: &Promise) -> Proof {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let scenario = (promise.scenario)();
    runtime.block_on(async { tokio::time::timeout(HUNG, scenario).await.unwrap_or_else(|_| Err("hangs".to_owned())) })
}

/// One test for each promise, and the table of them all.
macro_rules! promises {
    ($($room:ident::$name:ident notices [$($bug:ident),*],)+) => {
        const PROMISES: &[Promise] = &[$(Promise {
            name: stringify!($name),
            scenario: || Box::pin($room::$name()),
            notices: &[$(everline::planted::Bug::$bug),*],
        }),+];

        $(#[test]
        fn $name() {
            let promise = PROMISES.iter().find(|promise| promise.name == stringify!($name)).unwrap();
            prove(promise).unwrap();
        })+
    };
}

promises! {
    rule_1_addressed::a_message_reaches_who_was_a_member_then notices [MembersOfNow],
    rule_1_addressed::a_message_does_not_reach_who_had_left notices [StaysIgnored],
    rule_1_addressed::a_gap_is_filled_with_what_is_addressed_to_the_user notices [GapFilledByNumber],
    rule_1_addressed::changes_made_between_two_stays_come_at_the_rejoin notices [RejoinForgetsChanges],
    rule_1_addressed::recovery_hands_over_what_the_fan_out_would_have notices [],
    rule_2_refusal::a_right_is_judged_again_after_a_refusal notices [RowsKeptAfterRefusal],
    rule_2_refusal::two_nodes_delivering_the_same_deliver_it_once notices [InboxKeptAfterRefusal, DeliveredIgnored],
    rule_2_refusal::pipelined_messages_keep_their_order_around_one_that_another_node_made notices [],
    rule_2_refusal::an_unknown_commit_that_was_applied_is_ours notices [DoubtTakenForTheirs, RenumberedAfterUnknown],
    rule_2_refusal::an_edit_with_an_unknown_outcome_is_made_once notices [DoubtTakenForTheirs, RenumberedAfterUnknown],
    rule_2_refusal::an_unknown_commit_that_was_not_applied_is_decided_anew notices
        [DoubtTakenForOurs, UnknownTakenForApplied],
    rule_2_refusal::a_request_that_arrives_late_is_the_same_request notices [RenumberedAfterUnknown],
    rule_2_refusal::sessions_are_told_of_what_a_refusal_reveals notices [RefusalToldToNobody],
    rule_2_refusal::a_timeline_that_is_away_holds_up_no_other notices [OneHoldsUpAll],
    rule_2_refusal::a_slow_call_holds_up_no_other_call notices [],
    rule_3_marks::a_message_whose_node_dies_is_finished_by_another notices [NoMark, MarkAfterAppend],
    rule_3_marks::a_node_wrongly_taken_for_dead_is_fenced_off notices [NoFence],
    rule_3_marks::a_mark_holds_only_under_its_term notices [MarkOutlivesTerm],
    rule_3_marks::a_late_deletion_hits_no_later_mark notices [MarkKeyReused],
    rule_3_marks::a_mark_stands_until_all_deliveries_are_done notices [MarkDeletedEarly],
    rule_3_marks::a_new_mark_covers_what_is_under_way notices [MarkForgetsOpen],
    rule_3_marks::at_rest_there_are_no_marks notices [],
    rule_3_marks::a_mark_moves_on_though_nothing_rests notices [MarkKeyReused],
    rule_3_marks::what_was_left_is_brought_in_pages notices [],
    rule_3_marks::opening_finishes_many_pages notices [RecoveryForgotten],
    rule_3_marks::a_deletion_that_failed_is_tried_again notices [],
    rule_4_reads::who_was_invited_elsewhere_may_send_here notices [JudgedByCache],
    rule_4_reads::what_changes_nothing_is_judged_by_the_log notices [JudgedByCache],
    rule_4_reads::a_leaver_learns_nothing_of_what_follows notices [LeaverReadsOn],
    rule_4_reads::a_stranger_learns_nothing notices [],
    rule_4_reads::a_recalled_body_is_erased_and_no_edit_of_it_is_served notices [BodyNotErased, EditServedAfterRecall],
    rule_4_reads::a_body_that_waited_is_not_pushed_after_its_recall notices [],
    rule_5_own_effect::an_answer_waits_for_the_callers_own_timeline notices [AnswerBeforeOwnEffect],
    rule_5_own_effect::an_answer_waits_for_the_callers_busy_lane notices [AnswerBeforeOwnEffect],
    rule_5_own_effect::a_repeated_request_is_answered_after_its_effect notices [DuplicateBeforeOwnEffect],
    rule_5_own_effect::nothing_is_acked_before_it_is_durable notices [AckBeforeDurable, PushedBeforeDurable],
    rule_5_own_effect::an_abandoned_request_keeps_its_place notices [AbandonedRequestDropped],
    rule_5_own_effect::what_was_answered_unavailable_is_found_by_the_resend notices [],
    rule_5_own_effect::requests_decided_together_see_each_other notices [],
    rule_7_everything::a_receipt_survives_death_at_any_write notices [ReceiptAfterRead],
    rule_7_everything::a_notification_survives_death_at_any_write notices [],
    rule_7_everything::a_notification_is_made_once_and_stands_in_the_one_order notices [],
    rule_7_everything::who_comes_later_reads_what_everybody_is_told_from_then_on notices
        [NewcomerReadsAll, EachDeviceANewcomer],
    rule_7_everything::a_recall_reaches_who_is_off_line notices [RecallSkipsOffLine],
    rule_7_everything::a_delete_is_not_overtaken_by_its_message notices [DeleteOvertaken],
    rule_7_everything::a_recall_subtracts_only_what_counts notices [RecallAlwaysSubtracts],
    rule_7_everything::a_recount_knows_only_what_was_delivered notices [RecountSeesAhead],
    rule_7_everything::a_joiner_has_read_what_was_before notices [JoinerReadNothing],
    rule_7_everything::a_reading_tells_what_is_left notices [],
    rule_9_time::an_entrys_time_never_goes_back notices [TimeGoesBack],
    rule_9_time::a_floor_is_stored_before_it_is_told notices [FloorNotStored],
    rule_9_time::a_cursor_below_the_floor_is_a_reset notices [ReadPastFloor],
    rule_9_time::a_page_with_a_hole_is_never_sent notices [PageWithGap],
    rule_9_time::a_page_begins_after_the_cursor notices [InclusiveCursor],
    rule_9_time::numbers_go_on_when_every_entry_has_expired notices [HeadExpires],
    rule_9_time::the_same_creation_makes_one_conversation notices [CreateMakesAnother],
    rule_9_time::a_repetition_is_recognised_before_anything_else_is_checked notices
        [DuplicateCheckedLast, DedupeForgotten],
    rule_9_time::a_repetition_is_recognised_beyond_what_a_lane_remembers notices [DedupeForgotten],
    rule_10_large::crossing_the_limit_survives_death_at_any_write notices [CrossingToldByLog],
    rule_10_large::a_message_is_written_into_nobodys_own_timeline notices [MentionForgotten],
    rule_10_large::what_is_unread_is_counted_without_counting notices [OwnCountAsUnread],
    rule_10_large::the_list_knows_what_moved_last notices [],
    rule_10_large::a_follower_is_told_even_by_a_silent_bus notices [StayEndUnnoticed, SilenceBelieved],
    rule_10_large::a_recalled_text_is_told_to_no_follower notices [RecalledTextTold],
    rule_10_large::an_heir_is_found_among_many notices [],
    rule_10_large::a_recall_keeps_what_is_counted_by notices [RecallDropsCounts],
    receiving::nothing_is_lost_between_the_last_page_and_following notices [LostWakeUp],
    receiving::an_overflow_sends_the_session_to_its_log notices [OverflowForgotten],
    receiving::an_older_answer_undoes_nothing_on_a_client notices [OlderAnswerBelieved],
    nodes::a_hint_that_does_not_continue_is_read_from_the_log notices [HintTrusted],
    nodes::whenever_a_message_comes_during_hello_it_is_shown_at_once notices [HeadBeforeSeat],
    nodes::a_heartbeat_finds_what_a_silent_bus_hides notices [HeartbeatWithoutHead],
    nodes::notes_of_another_epoch_are_not_heard notices [ForeignNoteHeard],
    nodes::what_a_dead_node_left_is_finished_by_the_living notices [DeadLeftAlone],
    nodes::a_timeline_that_is_away_keeps_nobody_from_looking notices [],
    nodes::who_was_forgotten_is_known_again_before_his_next_mark notices [],
    nodes::a_dead_node_that_left_nothing_is_seldom_looked_at notices [],
    nodes::a_node_that_cannot_say_that_it_lives_is_not_ready notices [SilentNodeReady],
    nodes::a_node_whose_clock_is_far_behind_is_not_ready notices [ClockBehindReady],
    nodes::a_devices_newer_connection_ends_the_older_at_another_node notices [OlderConnectionStays],
    nodes::a_close_reaches_sessions_of_every_node notices [CloseStaysHere],
    crash::an_acked_message_survives_death_at_any_write notices [FannedTooEarly, RecoveryForgotten, NoMark],
    crash::changes_and_membership_survive_death_at_any_write notices [],
}

#[cfg(planted_bugs)]
mod planted_bugs {
    use everline::planted::{Bug, choose};

    use super::{PROMISES, prove};

    /// Every promise that is meant to notice a bug does, and none of them fails without it.
    #[test]
    fn every_planted_bug_is_found() {
        for promise in PROMISES {
            prove(promise).unwrap_or_else(|broken| panic!("{} without any bug: {broken}", promise.name));
        }
        std::panic::set_hook(Box::new(|_| {}));
        let (mut found, mut blind) = (0, Vec::new());
        for bug in Bug::ALL {
            let noticing: Vec<_> = PROMISES.iter().filter(|promise| promise.notices.contains(bug)).collect();
            let survives = |promise: &&&super::Promise| run(promise, *bug);
            let survived: Vec<_> = noticing.iter().filter(survives).map(|promise| promise.name).collect();
            match (noticing.is_empty(), survived.is_empty()) {
                (false, true) => found += 1,
                (true, _) => blind.push(format!("{bug:?}: no promise is said to notice it")),
                (_, false) => blind.push(format!("{bug:?} survives {survived:?}")),
            }
        }
        let _ = std::panic::take_hook();
        println!("{} planted bugs, {found} found", Bug::ALL.len());
        assert!(blind.is_empty(), "{blind:#?}");
    }

    /// Whether the promise seems kept with this bug planted.
    fn run(promise: &super::Promise, bug: Bug) -> bool {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                choose(Some(bug));
                let proof = prove(promise);
                println!("{bug:?} / {}: {}", promise.name, proof.as_ref().err().map_or("SURVIVES", String::as_str));
                proof.is_ok()
            });
            // A panic is a failure, too.
            thread.join().unwrap_or(false)
        })
    }
}
