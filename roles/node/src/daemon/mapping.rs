//! The router's port mappings.

use super::Daemon;
use crate::local::MappingReport;

impl Daemon {
    pub(super) fn start_mapping(&mut self) {}

    pub(super) async fn stop_mapping(&mut self) {}

    pub(super) fn remap(&mut self, _port: u16) {}

    pub(super) fn mapping_reports(&self) -> Vec<MappingReport> {
        Vec::new()
    }

    pub(super) fn mapping_note(&self) -> Option<String> {
        None
    }
}
