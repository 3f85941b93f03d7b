//! The contract of `store` as tests: one public function a promise, the same for every backend.
//!
//! ```ignore
//! everline::conformance_suite!(embedded, || async { Fixture::new(open_fresh()).reopening(...) });
//! ```
//!
//! makes one `#[tokio::test]` a promise. A promise takes a fresh store, asks only what the contract
//! says, and panics when it is broken. It resends a commit that ended `Unknown`, as a lane does, so a
//! backend may be slow or lose answers and still pass.
//!
//! How it can hurt: what is not asked here, a backend may get wrong unnoticed. So each promise here has
//! been seen to fail on a store broken on purpose, and `differential` asks at random for the rest.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a panic is how a promise reports that it is broken"
)]

pub mod calls;
pub mod commits;
pub mod differential;
pub mod durable;
pub mod entries;
mod fixture;
mod model;
pub mod racing;
pub mod rows;
pub mod spans;

pub use fixture::Fixture;

/// Makes a module `$name` with one test a promise; `$make` is called for a fresh [`Fixture`] by each
/// (`|| async { ... }`), or for none where the backend is not there (it says so then). What follows goes to `#[tokio::test(...)]`, as `start_paused = true`.
#[macro_export]
macro_rules! conformance_suite {
    ($name:ident, $make:expr $(, $($option:tt)*)?) => {
        mod $name {
            #[allow(unused_imports, reason = "what $make needs")]
            use super::*;
            $crate::conformance_promises! { tests ($make) ($($($option)*)?) }
        }
    };
}

/// The list of promises, for [`conformance_suite!`] and [`all`].
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_promises {
    ($what:ident $make:tt $options:tt) => {
        $crate::conformance_promises! { @ $what $make $options
            commits::an_unknown_timeline_is_all_zero
            commits::entries_are_numbered_densely
            commits::a_conflict_tells_the_present_head_and_changes_nothing
            commits::a_first_write_is_conditional_too
            commits::the_same_commit_again_is_a_conflict
            commits::the_term_is_part_of_the_condition
            commits::the_floor_never_regresses
            commits::fanned_never_regresses
            commits::the_head_outlives_its_entries
            commits::a_dropped_commit_is_not_taken_back
            calls::an_empty_call_has_no_outcomes
            calls::a_call_is_answered_commit_by_commit
            calls::a_call_with_a_conflict_is_refused_whole
            calls::a_large_fan_out_reaches_every_timeline
            calls::calls_are_decided_in_their_order
            calls::shared_contents_are_told_apart
            calls::timelines_with_like_names_are_apart
            entries::the_attempt_comes_back
            entries::a_rewrite_erases_the_body_only
            entries::a_rewrite_leaves_other_copies_alone
            entries::empty_and_large_contents_come_back
            entries::many_bytes_in_one_commit
            spans::a_span_is_bounded_on_both_sides
            spans::a_span_without_entries_is_empty
            spans::a_limit_counts_from_the_right_end
            spans::max_bytes_stops_a_page_but_not_before_one_entry
            spans::pages_follow_each_other_to_the_head
            rows::a_row_is_put_replaced_and_removed
            rows::rows_change_with_their_commit_only
            rows::rows_are_ordered_by_number_then_name
            rows::pages_of_rows_follow_each_other
            rows::rows_end_at_a_number
            rows::sections_and_timelines_are_separate
            rows::empty_and_large_values_come_back
            rows::a_row_stays_until_it_expires
            racing::appenders_share_a_timeline
            racing::what_was_applied_is_read_at_once
            racing::a_commit_is_seen_whole
            racing::one_of_many_equals_wins
            durable::everything_applied_is_there_after_reopening
            durable::the_epoch_is_kept
            durable::numbers_are_not_reused_after_reopening
            durable::marks_are_kept_until_deleted
            durable::nodes_are_known_until_forgotten
            durable::unfinished_are_those_below_their_head
            durable::timelines_are_listed_once
            durable::asking_makes_no_timeline
            differential::behaves_like_the_model
        }
    };
    (@ tests ($make:expr) $options:tt $($group:ident :: $promise:ident)*) => {
        $(
            #[tokio::test $options]
            async fn $promise() {
                let fixture: Option<$crate::store::conformance::Fixture> = ($make)().await.into();
                if let Some(fixture) = fixture {
                    $crate::store::conformance::$group::$promise(fixture).await;
                }
            }
        )*
    };
    (@ all ($make:expr) () $($group:ident :: $promise:ident)*) => {
        $( $group::$promise(($make)().await).await; )*
    };
}

/// Every promise, one after the other, each with a fresh fixture.
pub async fn all<F, Fut>(make: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Fixture>,
{
    crate::conformance_promises! { all (make) () }
}
