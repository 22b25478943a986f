use http::Method;
use warren_control::{BrokerUrl, ControlError, Http, Pins, REQUEST_TIMEOUT, Tls};

use crate::state::Joined;

/// Tells the broker that this device leaves its account.
pub(crate) async fn leave(joined: &Joined) -> Result<(), ControlError> {
    let url = BrokerUrl::parse(&joined.url)?;
    let tls = Tls::new(&Pins(joined.pins.clone())).map_err(|error| ControlError::Tls {
        authority: url.authority(),
        reason: error.to_string(),
    })?;
    let leaving = async {
        let http = Http::connect(&url, &tls, &[], Some(&joined.token)).await?;
        http.json::<serde_json::Value>(
            Method::POST,
            "/v1/node/logout",
            Some(&serde_json::json!({})),
            REQUEST_TIMEOUT,
        )
        .await
    };
    match tokio::time::timeout(REQUEST_TIMEOUT, leaving).await {
        Ok(answer) => answer.map(|_| ()),
        Err(_) => Err(ControlError::Timeout(REQUEST_TIMEOUT.as_secs())),
    }
}
