//! Policies speak of people: each account is told who its own are.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::error;
use warren_coord::policy::Members;

use crate::accounts::Accounts;
use crate::broker::Broker;
use crate::people::PeopleHandle;

/// Tells every account who its people are.
pub(crate) fn tell(accounts: &Accounts, people: &PeopleHandle) {
    for handle in accounts.all() {
        let members = people.read(|people| Members::of(people, handle.id()));
        handle.soft(|account, now| account.handle_members(members, now));
    }
}

/// Does so whenever somebody comes, goes or becomes something else, until `shutdown` turns true.
pub(crate) async fn keep_telling(broker: Arc<Broker>, mut shutdown: watch::Receiver<bool>) {
    let mut changes = broker.people.membership_changes();
    loop {
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
        // Who sees whom is worked out for each pair of devices: not on the runtime's threads.
        let broker = broker.clone();
        let told = tokio::task::spawn_blocking(move || tell(&broker.accounts, &broker.people));
        if let Err(error) = told.await {
            error!(%error, "accounts could not be told who their people are");
        }
    }
}
