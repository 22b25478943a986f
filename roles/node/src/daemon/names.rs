//! The mesh's names on this host.

use super::Daemon;

impl Daemon {
    pub(super) async fn start_names(&mut self) {}

    pub(super) async fn stop_names(&mut self) {}

    pub(super) fn update_zone(&mut self) {}
}
