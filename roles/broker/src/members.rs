//! Policies speak of people: each account is told who its own are.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::error;
use warren_coord::policy::Members;

use crate::accounts::{AccountHandle, Accounts};
use crate::broker::Broker;
use crate::people::PeopleHandle;

/// Tells every account who its people are, and the people how many of them each may have.
pub(crate) fn tell(accounts: &Accounts, people: &PeopleHandle) {
    for handle in accounts.all() {
        tell_limit(&handle, people);
        let members = people.read(|people| Members::of(people, handle.id()));
        handle.soft(|account, now| account.handle_members(members, now));
    }
}

/// Tells the people how many of them an account may have.
pub(crate) fn tell_limit(account: &AccountHandle, people: &PeopleHandle) {
    let limit = account.record().settings.user_limit;
    people.soft(|people| people.handle_user_limit(account.id(), limit));
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
