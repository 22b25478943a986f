//! What a broker that nobody uses yet has for its operator.

use std::sync::Arc;

use anyhow::{Context, Result};
use warren_coord::{Account, By, NewJoinKey, People};

use crate::accounts::AccountHandle;
use crate::broker::{Broker, failed};

const FIRST_ACCOUNT: &str = "home";
/// How long the link for the first device may be used, in seconds.
const FIRST_LINK_LIFETIME: u64 = 24 * 3600;

/// What stands between an empty broker and its first device and operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstStart {
    /// Whether no device had joined yet when the broker started.
    pub is_unused: bool,
    /// Whether nobody could run the broker in a browser yet.
    pub has_no_operator: bool,
    /// A one-time join link for account `home`, while the broker has no device at all.
    pub join_link: Option<String>,
    /// A one-time link by which somebody becomes the first operator, while there is none.
    pub set_up_link: Option<String>,
}

impl FirstStart {
    /// Creates the first account where there is none, and fresh links where somebody reads them: the
    /// start before may have been cut short.
    pub(crate) async fn prepare(broker: &Broker, with_links: bool) -> Result<Self> {
        let account = first_account(broker).await?;
        let has_no_operator = broker.people.read(People::needs_set_up);
        let join_link = match &account {
            Some(account) if with_links => Some(join_link(broker, account).await?),
            Some(_) | None => None,
        };
        let set_up_link = match with_links && has_no_operator {
            true => Some(set_up_link(broker).await?),
            false => None,
        };
        Ok(Self { is_unused: account.is_some(), has_no_operator, join_link, set_up_link })
    }
}

/// The account of the first start, as long as nobody has joined.
async fn first_account(broker: &Broker) -> Result<Option<Arc<AccountHandle>>> {
    match broker.accounts.all().as_slice() {
        [] => {
            let name = FIRST_ACCOUNT.parse().context("'home' is a name")?;
            broker.accounts.create(By::BROKER, name, None).await.map(Some).map_err(|it| failed(&it))
        }
        [only] if only.read(Account::device_count) == 0 => Ok(Some(only.clone())),
        [_, ..] => Ok(None),
    }
}

async fn join_link(broker: &Broker, account: &Arc<AccountHandle>) -> Result<String> {
    let key = NewJoinKey { expires_in: Some(FIRST_LINK_LIFETIME), ..NewJoinKey::default() };
    let created = broker.create_join_key(By::BROKER, account, key).await;
    Ok(created.map_err(|it| failed(&it))?.link)
}

/// To the portal's first page.
async fn set_up_link(broker: &Broker) -> Result<String> {
    let made = broker.people.durable(By::BROKER, People::prepare_set_up_link).await;
    let made = made.map_err(|it| failed(&it))?;
    Ok(format!("{}/set-up#{}", broker.url, made.secret))
}
