//! Whether a device is reached at its static endpoint: a STUN Binding request (RFC 8489 §2) with
//! short-term credentials, from a port that the device has never sent to, so that no router lets it
//! through as an answer.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use warren_proto::{DeviceId, ReachCheck, ReachId, is_usable_endpoint};
use warren_turn::{Builder, Class, Integrity, Message, Method, Sha256Key, TransactionId};

use crate::accounts::AccountHandle;
use crate::api::problem::{ApiResult, Failure};
use crate::relays::probe::exchange;

/// How long the device's own router and firewall are given to have been told.
const HEAD_START: Duration = Duration::from_millis(150);

/// What a look at a static endpoint showed.
pub(crate) struct Reached {
    /// What was looked at.
    pub(crate) endpoint: SocketAddr,
    /// The address that the request left from, without its port.
    pub(crate) from: Option<std::net::IpAddr>,
    /// The round trip, if the device answered.
    pub(crate) rtt: Option<Duration>,
}

/// Looks whether a device answers at its static endpoint; takes up to two seconds.
///
/// # Errors
/// As [`warren_coord::Account::handle_reach`], or that the endpoint is nowhere to send to.
pub(crate) async fn look(account: &AccountHandle, device: DeviceId) -> ApiResult<Reached> {
    let secret: [u8; 32] = rand::random();
    let check = ReachCheck { id: ReachId(rand::random()), key: URL_SAFE_NO_PAD.encode(secret) };
    let (tag, key) = (check.id.to_string(), Sha256Key::new(check.key.as_bytes()));
    let endpoint = account.soft(|account, now| account.handle_reach(device, check, now))?;
    if !is_usable_endpoint(&endpoint) {
        return Err(Failure::invalid("nobody can be reached at this endpoint from elsewhere"));
    }
    tokio::time::sleep(HEAD_START).await;
    let id = TransactionId(rand::random());
    let mut request = Vec::new();
    Builder::new(&mut request, Class::Request, Method::BINDING, id)
        .username(tag.as_bytes())
        .integrity_sha256(&key)
        .fingerprint();
    let is_answer = |answer: &Message<'_>| {
        answer.class() == Class::Success
            && answer.transaction_id() == id
            && answer.verify_sha256(&key) == Integrity::Valid
    };
    match exchange(endpoint, &request, is_answer).await {
        Ok(asked) => Ok(Reached { endpoint, from: Some(asked.from), rtt: asked.rtt }),
        // No route of that family from here.
        Err(_) => Ok(Reached { endpoint, from: None, rtt: None }),
    }
}
