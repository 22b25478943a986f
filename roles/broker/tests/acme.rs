//! A certificate from a real ACME authority.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

mod common;
#[path = "../../../shell/tls/tests/support/pebble.rs"]
mod pebble;

use common::{Client, TestBroker, config, new_secret};
use http::StatusCode;
use pebble::{A_DAY, Pebble, connected, free_port, is_skipped};
use warren_broker::{AcmeConfig, TlsMode};

const DOMAIN: &str = "broker.example.test";

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_ordered_used_and_kept() {
    if is_skipped() {
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let port = free_port();
    let pebble = Pebble::start(work.path(), port, A_DAY);
    let issuer = pebble.issuer().await;

    let mut config = config(&work.path().join("data"));
    config.listen = Some(([127, 0, 0, 1], port).into());
    config.public_url = Some(format!("https://{DOMAIN}:{port}"));
    config.tls = TlsMode::Acme(AcmeConfig {
        directory: pebble.directory.clone(),
        root: Some(pebble.root.clone()),
        email: Some("admin@example.test".to_owned()),
    });
    let broker = TestBroker::start_with(config.clone()).await;
    let link = broker.first_link.clone().unwrap();
    assert_eq!(link.url, format!("https://{DOMAIN}:{port}"));
    assert_eq!(link.pin, None, "the authority vouches for the broker");
    let stream = connected(port, DOMAIN, &issuer, b"h2").await;
    let client = Client::over(stream, format!("{DOMAIN}:{port}")).await.unwrap();
    let registered = client.join(&new_secret(), &link.key, "laptop").await;
    drop(client);
    broker.stop().await;

    drop(pebble);
    let broker = TestBroker::start_with(config).await;
    let stream = connected(port, DOMAIN, &issuer, b"h2").await;
    let client = Client::over(stream, format!("{DOMAIN}:{port}")).await.unwrap();
    let answer = client.with_token(&registered.token).get("/v1/node/netmap").await;
    assert_eq!(answer.status, StatusCode::OK);
    broker.stop().await;
}
