//! Activity that is older than an account keeps it is forgotten, now and then.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use crate::accounts::{Accounts, unix_millis};
use crate::broker::Broker;

/// From one time to the next.
const INTERVAL: Duration = Duration::from_secs(6 * 60 * 60);
const DAY_MILLIS: u64 = 24 * 60 * 60 * 1_000;

/// Does so at once and each six hours, until `shutdown` turns true.
pub(crate) async fn keep_pruning(broker: Arc<Broker>, mut shutdown: watch::Receiver<bool>) {
    loop {
        prune(&broker.accounts, unix_millis()).await;
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
    }
}

/// Forgets what is too old at this moment, in milliseconds since the Unix epoch.
async fn prune(accounts: &Accounts, now: u64) {
    for account in accounts.all() {
        let Some(days) = account.record().settings.activity_days else { continue };
        let before = now.saturating_sub(u64::from(days) * DAY_MILLIS);
        let epoch = account.read(warren_coord::Account::epoch);
        match accounts.store().prune_activity(account.id(), epoch, before).await {
            Ok(0) => {}
            Ok(entries) => info!(account = %account.id(), entries, "old activity is forgotten"),
            Err(error) => warn!(account = %account.id(), %error, "old activity is kept for now"),
        }
    }
}
