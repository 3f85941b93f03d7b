//! The recorder of this process and its text. Everybody counts through the `metrics` facade.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::hub::Hub;

/// Seconds: from a page out of memory to a store that is in trouble.
const BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// The process has one recorder, installed when the first server starts. `None`: another one was
/// installed by somebody else, who then also shows it.
pub(super) fn handle() -> Option<&'static PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let builder = PrometheusBuilder::new().set_buckets(&BUCKETS).ok()?;
            builder.install_recorder().ok()
        })
        .as_ref()
}

/// All metrics as text. The hub counts by itself, being too hot for the facade.
pub(super) fn render(hub: &Hub) -> String {
    metrics::counter!("everline_deliveries_total").absolute(hub.deliveries());
    metrics::counter!("everline_queue_overflows_total").absolute(hub.overflows());
    handle().map(PrometheusHandle::render).unwrap_or_default()
}

/// Keeps histograms from growing between scrapes; call now and then.
pub(super) fn upkeep() {
    if let Some(handle) = handle() {
        handle.run_upkeep();
    }
}
