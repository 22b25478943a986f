use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use ring::hmac;
use warren_control::{BrokerUrl, ControlError, Http, Pins, REQUEST_TIMEOUT, Tls};
use warren_proto::{
    BrokerIdentity, Challenge, JoinLink, PROTOCOL, PublicKey, Register, Registered,
    possession_message,
};
use x25519_dalek::StaticSecret;

/// Joins an account, proving possession of the private key.
///
/// Idempotent by key: repeated after a crash with the same link, it gives the same device.
pub(crate) async fn register(
    link: &JoinLink,
    private_key: &StaticSecret,
    name: &str,
) -> Result<Registered, ControlError> {
    let url = BrokerUrl::parse(&link.url)?;
    let tls = Tls::new(&Pins(link.pin.into_iter().collect())).map_err(|error| {
        ControlError::Tls { authority: url.authority(), reason: error.to_string() }
    })?;
    let http = Http::connect(&url, &tls, &[], None).await?;
    let challenge: Challenge =
        http.json(Method::GET, "/v1/node/challenge", None::<&()>, REQUEST_TIMEOUT).await?.body;
    let key = PublicKey(x25519_dalek::PublicKey::from(private_key).to_bytes());
    let request = Register {
        protocol: PROTOCOL,
        join_key: link.key.clone(),
        key,
        proof: prove(link, &challenge, private_key, &key),
        challenge: challenge.challenge,
        name: name.to_owned(),
        os: std::env::consts::OS.to_owned(),
        software: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let answer =
        http.json(Method::POST, "/v1/node/register", Some(&request), REQUEST_TIMEOUT).await?;
    Ok(answer.body)
}

fn prove(
    link: &JoinLink,
    challenge: &Challenge,
    private_key: &StaticSecret,
    key: &PublicKey,
) -> String {
    let broker = x25519_dalek::PublicKey::from(challenge.broker_key.0);
    let shared = private_key.diffie_hellman(&broker);
    let mac_key = hmac::Key::new(hmac::HMAC_SHA256, shared.as_bytes());
    let message =
        possession_message(&BrokerIdentity::of(link), &challenge.challenge, key, &link.key);
    URL_SAFE_NO_PAD.encode(hmac::sign(&mac_key, &message))
}
