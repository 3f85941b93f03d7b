//! The CQL store keeps the contract of `store`, on a real database.
#![cfg(feature = "server")]

mod cql_support;

use cql_support::fixture;
use everline::conformance_suite;
use everline::store::conformance::differential::behaves_like_the_model;
use everline::store::cql::Options;

conformance_suite!(usual, || fixture(|options| options));
// Buckets fill all the time, and settling runs beside.
conformance_suite!(small_buckets, || fixture(|options| Options { bucket_entries: 7, ..options }));

#[tokio::test]
async fn with_a_bucket_for_every_commit_it_behaves_like_the_model() {
    if let Some(fixture) = fixture(|options| Options { bucket_entries: 1, ..options }).await {
        behaves_like_the_model(fixture).await;
    }
}
