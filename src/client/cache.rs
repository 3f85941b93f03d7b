//! Where a device keeps what it knows: entries and cursor in one transaction.
//!
//! The client acknowledges only what [`Cache::save`] has returned for. A save that did half its work
//! and is read back later is the one thing that can lose a message here.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::error::BoxError;
use super::outbox::Outbox;
use super::state::State;
use crate::protocol::ConvId;

/// All that is kept. `serde_json` can write it, and read it from text in memory.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Saved {
    /// What the device knows.
    pub state: State,
    /// What it has to send.
    pub outbox: Outbox,
}

/// What changed, to be stored all or nothing.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// The whole new state: the cursor and the small fields count always, conversations as `touched`.
    pub state: &'a State,
    /// The conversations that differ from the last save; `None`: any may, and some may be gone.
    pub touched: Option<&'a BTreeSet<ConvId>>,
    /// The outbox, when it differs from the last save.
    pub outbox: Option<&'a Outbox>,
}

/// A store of one device. Calls come one at a time.
pub trait Cache: std::marker::Send + 'static {
    /// What was saved last; the default when there is nothing.
    ///
    /// # Errors
    /// Stops the client before it connects.
    fn load(&mut self) -> BoxFuture<'_, Result<Saved, BoxError>>;

    /// Stores a change, all or nothing, before it returns.
    ///
    /// # Errors
    /// Stops the client; what it could not store is not acknowledged.
    fn save<'a>(&'a mut self, write: Write<'a>) -> BoxFuture<'a, Result<(), BoxError>>;
}

/// Keeps nothing: every process is a fresh device.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoCache;

impl Cache for NoCache {
    fn load(&mut self) -> BoxFuture<'_, Result<Saved, BoxError>> {
        Box::pin(async { Ok(Saved::default()) })
    }

    fn save<'a>(&'a mut self, _: Write<'a>) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(async { Ok(()) })
    }
}

/// Keeps it in memory; clones share it, so that a next client goes on where this one was.
#[derive(Clone, Debug, Default)]
pub struct MemoryCache(Arc<Mutex<Saved>>);

impl MemoryCache {
    /// What is kept now.
    #[must_use]
    pub fn saved(&self) -> Saved {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Cache for MemoryCache {
    fn load(&mut self) -> BoxFuture<'_, Result<Saved, BoxError>> {
        let saved = self.saved();
        Box::pin(async { Ok(saved) })
    }

    fn save<'a>(&'a mut self, write: Write<'a>) -> BoxFuture<'a, Result<(), BoxError>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(write);
        Box::pin(async { Ok(()) })
    }
}

impl Saved {
    /// Takes a change over.
    pub fn take(&mut self, write: Write<'_>) {
        let Write { state, touched, outbox } = write;
        if let Some(outbox) = outbox {
            self.outbox.clone_from(outbox);
        }
        let Some(touched) = touched else {
            self.state.clone_from(state);
            return;
        };
        let mut conversations = std::mem::take(&mut self.state.conversations);
        for conv_id in touched {
            if let Some(held) = state.conversations.get(conv_id) {
                conversations.insert(conv_id.clone(), held.clone());
            }
        }
        self.state = State {
            user_id: state.user_id.clone(),
            cursor: state.cursor.clone(),
            conversations,
            notifications: state.notifications.clone(),
            preload: state.preload,
            loading: state.loading,
            list_wanted: state.list_wanted,
        };
    }
}

/// Keeps it in one JSON file, written anew and renamed for each change: for small programs.
#[derive(Debug)]
pub struct FileCache {
    path: std::path::PathBuf,
    saved: Saved,
}

impl FileCache {
    /// A file that may not exist yet; its directory must.
    #[must_use]
    pub fn new(path: impl Into<std::path::PathBuf>) -> Self {
        Self { path: path.into(), saved: Saved::default() }
    }

    fn read(&mut self) -> Result<Saved, BoxError> {
        match std::fs::read_to_string(&self.path) {
            Ok(text) => self.saved = serde_json::from_str(&text)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.saved.clone())
    }

    fn write(&mut self, write: Write<'_>) -> Result<(), BoxError> {
        self.saved.take(write);
        let text = serde_json::to_string(&self.saved)?;
        let next = self.path.with_extension("next");
        let mut file = std::fs::File::create(&next)?;
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        file.sync_all()?;
        Ok(std::fs::rename(&next, &self.path)?)
    }
}

impl Cache for FileCache {
    fn load(&mut self) -> BoxFuture<'_, Result<Saved, BoxError>> {
        let saved = self.read();
        Box::pin(async { saved })
    }

    fn save<'a>(&'a mut self, write: Write<'a>) -> BoxFuture<'a, Result<(), BoxError>> {
        let written = self.write(write);
        Box::pin(async { written })
    }
}
