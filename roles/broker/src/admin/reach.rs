//! The API's look at whether a device is reached at its static endpoint.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::devices::find_device;
use super::operation::Operation;
use crate::api::problem::ApiResult;
use crate::broker::Broker;
use crate::reach::{self, Reached};

/// What a look at a device's static endpoint showed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reachability {
    /// The static endpoint.
    pub endpoint: SocketAddr,
    /// Whether the device answered there.
    pub reached: bool,
    /// The round trip in milliseconds, if it did.
    pub rtt_ms: Option<f64>,
    /// The broker's address that the request left from; absent where it has none of that family.
    pub asked_from: Option<IpAddr>,
    /// The same for people, with what to do.
    pub text: String,
}

impl From<Reached> for Reachability {
    fn from(reached: Reached) -> Self {
        let Reached { endpoint, from, rtt } = reached;
        let port = endpoint.port();
        let text = match (rtt, from) {
            (Some(rtt), Some(from)) => format!(
                "Reached: it answered at {endpoint} in {:.0} ms, asked from {from}, where it had \
                 never sent anything.",
                rtt.as_secs_f64() * 1000.0
            ),
            (_, None) => format!(
                "Not known: the broker's machine has no way to {endpoint}. Look from a machine that \
                 has such an address."
            ),
            (None, Some(from)) => format!(
                "Not reached: nothing came back from {endpoint}, asked from {from}. Check that the \
                 router forwards UDP port {port} to this device's listen port, that the device's \
                 firewall lets it in, and that the address is the router's public one. From behind \
                 the same router, many routers don't let one reach it."
            ),
        };
        let rtt_ms = rtt.map(|rtt| rtt.as_secs_f64() * 1000.0);
        Self { endpoint, reached: rtt.is_some(), rtt_ms, asked_from: from, text }
    }
}

/// They.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::post(
            "/accounts/{account}/devices/{device}/reach",
            "reachDevice",
            "Looks whether a device that is online is reached at its static endpoint, by a STUN \
             request from the broker; takes up to two seconds",
            reach_device,
        )
        .needs_device()
        .gives::<Reachability>(),
    ]
}

async fn reach_device(
    State(broker): State<Arc<Broker>>,
    Path((account, device)): Path<(String, String)>,
) -> ApiResult<Json<Reachability>> {
    let handle = broker.accounts.find(&account)?;
    let device = find_device(&handle, &device)?;
    Ok(Json(reach::look(&handle, device).await?.into()))
}
