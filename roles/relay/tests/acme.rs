//! TURN over TLS with a certificate from a real ACME authority.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

#[path = "../../../shell/tls/tests/support/pebble.rs"]
mod pebble;

use std::path::Path;
use std::time::Duration;

use pebble::{A_DAY, Pebble, TlsStream, connected, free_port, is_skipped};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use warren_relay::turn::{
    AcmeConfig, CertificateSource, ServerConfig, Settings, TlsConfig, Turn, TurnConfig,
};

const NAME: &str = "relay.example.test";

fn config(folder: &Path, port: u16, acme: AcmeConfig) -> TurnConfig {
    TurnConfig {
        udp: vec!["127.0.0.1:0".parse().unwrap()],
        tcp: Vec::new(),
        tls: Some(TlsConfig {
            listen: vec![([127, 0, 0, 1], port).into()],
            certificate: CertificateSource::Acme {
                name: NAME.to_owned(),
                folder: folder.join("acme"),
                config: acme,
            },
        }),
        server: ServerConfig::private(Settings::default()),
        metrics: None,
        mint: None,
        drain_timeout: Duration::ZERO,
    }
}

/// Asks the TURN server for the own address.
async fn is_answered(mut stream: TlsStream) -> bool {
    let request = [&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42][..], &[7; 12]].concat();
    stream.write_all(&request).await.unwrap();
    let mut answer = [0; 20];
    stream.read_exact(&mut answer).await.unwrap();
    answer[..2] == [1, 1] && answer[8..] == [7; 12]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_ordered_used_and_kept() {
    if is_skipped() {
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let port = free_port();
    let pebble = Pebble::start(work.path(), port, A_DAY);
    let issuer = pebble.issuer().await;
    let acme = AcmeConfig {
        directory: pebble.directory.clone(),
        root: Some(pebble.root.clone()),
        email: None,
    };
    let config = config(work.path(), port, acme);
    let turn = Turn::start(&config).await.unwrap();
    assert!(is_answered(connected(port, NAME, &issuer, b"stun.turn").await).await);
    drop(turn);
    drop(pebble);
    let _turn = Turn::start(&config).await.unwrap();
    assert!(is_answered(connected(port, NAME, &issuer, b"stun.turn").await).await);
}
