//! The broker's own relay: what it is called, how devices reach it, and that it hears whom to refuse.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::sync::watch;
use warren_coord::{Account, RelayFace, RelayRecord, relay_init, relay_update};
use warren_proto::{Pin, RelayId, RelayInit, RelayLoad, RelayScope, RelayTls};
use warren_store::Store;

use super::Relays;
use crate::accounts::fresh_ctx;
use crate::config::PublicUrl;
use crate::embedded::RunningRelay;

const NAME: &str = "broker";
const ID: &str = "relay-id";
const SECRET: &str = "relay-secret";

/// The relay that the broker is, with the id and secret that it was given at its first start.
pub(crate) async fn record(store: &Store, face: RelayFace) -> Result<RelayRecord> {
    let id = kept(store, ID, || RelayId(rand::random()).to_string()).await?;
    let secret = kept(store, SECRET, || URL_SAFE_NO_PAD.encode(rand::random::<[u8; 24]>())).await?;
    let id = id.parse().context("the relay's id in the database is damaged")?;
    let name = NAME.parse().context("'broker' is a name")?;
    Ok(RelayRecord::own(id, name, secret, face.clean()))
}

async fn kept(store: &Store, name: &str, make: impl FnOnce() -> String) -> Result<String> {
    if let Some(value) = store.setting(name).await.context("can't read a setting")? {
        return Ok(value);
    }
    let value = make();
    store.set_setting(name, &value).await.context("can't keep the relay's identity")?;
    Ok(value)
}

/// Where devices reach it: at the STUN servers that they are told of, and through the HTTPS port.
pub(crate) fn face(named: &[SocketAddr], url: &PublicUrl, pin: Option<Pin>) -> RelayFace {
    let tls = RelayTls { host: url.host.clone(), port: url.port, server_name: None, pin };
    RelayFace {
        udp: named.to_vec(),
        tcp: Vec::new(),
        tls: if url.https { vec![tls] } else { Vec::new() },
    }
}

impl Relays {
    /// What the broker's own relay is to know.
    pub(crate) fn own_init(&self) -> Option<RelayInit> {
        let (record, mut revoked) = {
            let state = self.lock();
            (state.own.clone()?, state.orphans.clone())
        };
        for account in self.accounts.all() {
            revoked.extend(account.read(Account::revoked_devices));
        }
        revoked.sort_unstable();
        revoked.dedup();
        Some(relay_init(&record, RelayScope::Operator, revoked, fresh_ctx().unix))
    }

    /// The broker's own relay has begun to serve.
    pub(crate) fn set_running(&self, relay: &Arc<dyn RunningRelay>) {
        // There is one start for each process.
        let _ = self.running.set(Arc::downgrade(relay));
    }

    /// What the broker's own relay carries.
    pub(crate) fn own_load(&self) -> RelayLoad {
        let running = self.running.get().and_then(Weak::upgrade);
        running.map(|relay| relay.load()).unwrap_or_default()
    }

    /// The broker is known by another key.
    pub(crate) fn change_own_pin(&self, pin: Pin) {
        {
            let mut state = self.lock();
            let Some(own) = &mut state.own else { return };
            for tls in &mut own.face.tls {
                tls.pin = Some(pin);
            }
        }
        self.publish();
    }
}

/// Tells the own relay whom to refuse, until `stop` turns true.
pub(crate) async fn keep_telling(
    relays: Arc<Relays>,
    relay: Arc<dyn RunningRelay>,
    mut told: RelayInit,
    mut stop: watch::Receiver<bool>,
) {
    let mut news = relays.accounts.relay_news().subscribe();
    loop {
        if let Some(init) = relays.own_init()
            && relay_update(&told, &init).is_some()
        {
            relay.tell(&init);
            told = init;
        }
        tokio::select! {
            changed = news.changed() => if changed.is_err() { return },
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}
