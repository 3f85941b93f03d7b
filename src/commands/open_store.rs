//! Opens the store a configuration names, for every command that needs one.

use std::path::Path;
use std::sync::Arc;

use everline::config::{Clock, StoreChoice};
use everline::store::Store;
use everline::store::embedded::{Embedded, Options};
use everline::store::sim::{Faults, Sim, SimOptions};

use super::Failure;

/// A store, and what is special about it if it is the embedded one.
pub(super) struct Opened {
    /// The store.
    pub(super) store: Arc<dyn Store>,
    /// The same, as what it is.
    pub(super) embedded: Option<Arc<Embedded>>,
}

impl Opened {
    /// Ends when the store has failed for good (an fsync that failed): the process must stop then.
    pub(super) async fn failed(&self) -> Arc<str> {
        let Some(embedded) = &self.embedded else { return std::future::pending().await };
        let mut failed = embedded.failed();
        match failed.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => Arc::from("its writer has ended"),
        }
    }

    /// Writes out what is only in the journal, so that the next start is quick. Losing this is harmless.
    pub(super) fn close(&self) {
        if let Some(embedded) = &self.embedded
            && let Err(error) = embedded.close()
        {
            tracing::warn!(%error, "store not closed cleanly");
        }
    }
}

/// Opens what `choice` names.
pub(super) fn open(choice: &StoreChoice, clock: &Clock) -> Result<Opened, Failure> {
    match choice {
        StoreChoice::Memory => {
            let options =
                SimOptions { seed: rand::random(), clock: clock.clone(), together: true, faults: Faults::none() };
            Ok(Opened { store: Arc::new(Sim::new(options)), embedded: None })
        }
        StoreChoice::Embedded(dir) => open_embedded(dir, clock),
    }
}

/// Opens the embedded store in `dir`.
pub(super) fn open_embedded(dir: &Path, clock: &Clock) -> Result<Opened, Failure> {
    let embedded = Embedded::open(Options::new(dir, clock.clone())).map_err(Failure::failed)?;
    Ok(Opened { store: Arc::clone(&embedded) as Arc<dyn Store>, embedded: Some(embedded) })
}
