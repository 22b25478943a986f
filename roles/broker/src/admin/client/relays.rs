use http::Method;

use super::{Client, Error, account_path, escape};
use crate::admin::{NewRelay, NewTurn, Relay, RelayCreated, SetRelays};

/// Whose relays: those of an account, or (`None`) those that are offered to all.
type Owner<'a> = Option<&'a str>;

impl Client {
    /// The relays that an account's devices use or could use, those in use first; or those that
    /// are offered to all accounts.
    pub async fn relays(&self, owner: Owner<'_>) -> Result<Vec<Relay>, Error> {
        self.list(&relays_path(owner)).await
    }

    /// One relay.
    pub async fn relay(&self, owner: Owner<'_>, relay: &str) -> Result<Relay, Error> {
        self.get(&relay_path(owner, relay)).await
    }

    /// Makes a relay server's token.
    pub async fn create_relay(
        &self,
        owner: Owner<'_>,
        new: &NewRelay,
    ) -> Result<RelayCreated, Error> {
        self.send(Method::POST, &relays_path(owner), Some(new)).await
    }

    /// Takes somebody's TURN server in.
    pub async fn add_turn(&self, owner: Owner<'_>, new: &NewTurn) -> Result<Relay, Error> {
        let path = match owner {
            Some(account) => format!("{}/turn-servers", account_path(account)),
            None => "/api/v1/turn-servers".to_owned(),
        };
        self.send(Method::POST, &path, Some(new)).await
    }

    /// Names an account's connection relays. The answer is those that its devices use now, with
    /// what speaks against them; it takes a moment to find that out.
    pub async fn set_relays(&self, account: &str, list: &SetRelays) -> Result<Vec<Relay>, Error> {
        self.send(Method::PUT, &relays_path(Some(account)), Some(list)).await
    }

    /// Gives a relay a new secret; credentials made with the old one are good until they end.
    pub async fn rotate_relay(&self, owner: Owner<'_>, relay: &str) -> Result<Relay, Error> {
        let path = format!("{}/rotate", relay_path(owner, relay));
        self.send(Method::POST, &path, None::<&()>).await
    }

    /// Removes a relay; a relay server's token is void at once. A device stays a device.
    pub async fn remove_relay(&self, owner: Owner<'_>, relay: &str) -> Result<(), Error> {
        self.delete(&relay_path(owner, relay)).await
    }
}

fn relays_path(owner: Owner<'_>) -> String {
    match owner {
        Some(account) => format!("{}/relays", account_path(account)),
        None => "/api/v1/relays".to_owned(),
    }
}

fn relay_path(owner: Owner<'_>, relay: &str) -> String {
    format!("{}/{}", relays_path(owner), escape(relay))
}
