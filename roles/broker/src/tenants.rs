//! What the broker does to a whole account, beyond the account itself.

use std::sync::Arc;

use warren_coord::{By, People, SettingsEdit};
use warren_proto::AccountId;

use crate::accounts::AccountHandle;
use crate::api::problem::{ApiResult, Failure};
use crate::broker::Broker;
use crate::members;

impl Broker {
    /// Changes an account's settings; people are told of their limit.
    pub(crate) async fn change_settings(
        &self,
        by: By,
        account: &Arc<AccountHandle>,
        edit: SettingsEdit,
    ) -> ApiResult<()> {
        account.durable(by, move |account, ctx| account.prepare_settings(edit, ctx)).await?;
        members::tell_limit(account, &self.people);
        Ok(())
    }

    /// Removes an account, and what people have to do with it.
    pub(crate) async fn remove_account(&self, by: By, id: AccountId) -> ApiResult<()> {
        self.accounts.remove(by.clone(), id).await?;
        let forget = move |people: &People, _: &_| Ok(people.prepare_account_removed(id));
        self.people.durable(by, forget).await?;
        self.relays.reload().await.map_err(|error| Failure::unavailable(&error))
    }
}
