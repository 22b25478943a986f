//! Writing without blocking: the map is written soon after a change, not at each one, and a disk
//! that takes nothing is health, not an end.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Daemon, wall_clock};
use crate::StateError;
use crate::local::HealthCode;

/// Changes come in bursts.
const SETTLE: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_secs(30);

/// What is still to be written.
#[derive(Debug, Default)]
pub(super) struct Persist {
    map_due: Option<Instant>,
    writing: Option<JoinHandle<Result<(), StateError>>>,
    identity_unsaved: bool,
    retry: Option<Instant>,
}

impl Persist {
    /// When something is to be written; never while something is being written.
    pub(super) fn due(&self) -> Option<Instant> {
        self.map_due.filter(|_| self.writing.is_none())
    }

    pub(super) async fn next_result(&mut self) -> Result<(), StateError> {
        match &mut self.writing {
            Some(writing) => {
                let result = writing.await;
                self.writing = None;
                result.unwrap_or(Ok(()))
            }
            None => std::future::pending().await,
        }
    }
}

impl Daemon {
    /// The map changed; it is written in a moment.
    pub(super) fn map_changed(&mut self) {
        self.persist.map_due.get_or_insert(Instant::now() + SETTLE);
    }

    pub(super) fn save_map_if_due(&mut self) {
        if self.persist.due().is_none_or(|due| Instant::now() < due) {
            return;
        }
        self.persist.map_due = None;
        let Some(map) = self.map.clone() else { return };
        let folder = self.folder.path().to_owned();
        self.persist.writing = Some(tokio::task::spawn_blocking(move || map.save(&folder)));
    }

    pub(super) fn note_saved(&mut self, result: Result<(), StateError>) {
        match result {
            Ok(()) if self.persist.identity_unsaved => {}
            Ok(()) => self.healths.clear(HealthCode::StateNotSaved),
            Err(error) => {
                self.note_unsaved(&error);
                self.persist.map_due = Some(Instant::now() + RETRY);
            }
        }
    }

    /// Something couldn't be written, and will be tried again.
    pub(super) fn note_unsaved(&mut self, error: &StateError) {
        self.healths.set(HealthCode::StateNotSaved, error.to_string());
        self.persist.retry.get_or_insert(Instant::now() + RETRY);
    }

    /// Writes the identity; a failure is health and is repaired later.
    pub(super) fn save_identity(&mut self) {
        if let Err(error) = self.try_save_identity() {
            self.note_unsaved(&error);
        }
    }

    /// Writes the identity.
    ///
    /// # Errors
    /// It isn't written; the daemon tries again by itself.
    pub(super) fn try_save_identity(&mut self) -> Result<(), StateError> {
        let result = self.identity.save(self.folder.path());
        self.persist.identity_unsaved = result.is_err();
        result
    }

    pub(super) fn retry_saving(&mut self) {
        if self.persist.retry.is_none_or(|at| Instant::now() < at) {
            return;
        }
        self.persist.retry = None;
        if self.persist.identity_unsaved {
            self.save_identity();
        }
        if !self.persist.identity_unsaved {
            self.healths.clear(HealthCode::StateNotSaved);
            // Whether there is room again shows when the map is written.
            self.map_changed();
        }
    }

    /// The broker has just confirmed the map that we have.
    pub(super) fn map_confirmed(&mut self) {
        if let Some(map) = &mut self.map {
            map.current_at = wall_clock().as_secs();
        }
    }

    pub(super) fn save_before_end(&mut self) {
        if let Some(map) = &self.map
            && self.identity.joined.is_some()
            && let Err(error) = map.save(self.folder.path())
        {
            tracing::warn!(%error, "the netmap was not saved");
        }
        if self.persist.identity_unsaved {
            self.save_identity();
        }
    }
}
