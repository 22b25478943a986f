//! The relays' local sockets: `warren relay log`, `warren pair-relay log`.

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::json;
use warren_relay::control::{Control, set_log_filter};

use crate::cli::Global;
use crate::folder;
use crate::logging::SetFilter;
use crate::output::{self, say};

/// Where the relay of that kind has its socket.
fn socket(global: &Global, kind: &str) -> Option<PathBuf> {
    let folder = global.state.clone().or_else(folder::runtime)?;
    Some(folder.join(format!("{kind}.sock")))
}

/// Opens the socket; a relay without one serves all the same.
pub(super) fn open(global: &Global, kind: &str, set_filter: SetFilter) -> Option<Control> {
    let Some(path) = socket(global, kind) else {
        tracing::info!("there is no folder for a local socket: --state DIR names one");
        return None;
    };
    match Control::listen(&path, set_filter) {
        Ok(control) => Some(control),
        Err(error) => {
            tracing::warn!(
                "what is logged can't be changed while running: {error:#}; give this one a folder \
                 of its own by --state DIR"
            );
            None
        }
    }
}

pub(crate) async fn log(global: &Global, kind: &str, filter: String) -> anyhow::Result<()> {
    let path = socket(global, kind).context("say which relay by --state DIR")?;
    set_log_filter(&path, &filter).await?;
    if global.json {
        return output::json(&json!({ "log": filter }));
    }
    say!("The relay logs {filter} until it restarts");
    Ok(())
}
