//! The client against a small TLS server of these tests' own, whose certificates it can choose.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    PublicKeyData as _, date_time_ymd,
};
use ring::digest::{SHA256, digest};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use warren_proto::Pin;

use crate::connect::dial;
use crate::error::ControlError;
use crate::tls::{Pins, Tls};
use crate::url::BrokerUrl;

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pin: Pin,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let spki = key.subject_public_key_info();
        let pin = Pin(digest(&SHA256, &spki).as_ref().try_into().unwrap());
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "test CA");
        Self { issuer: CertifiedIssuer::self_signed(params, key).unwrap(), pin }
    }

    /// A leaf for a name that nobody asks for.
    fn leaf(&self, years: (i32, i32)) -> Presented {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["elsewhere.example".to_owned()]).unwrap();
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let chain = vec![leaf.der().clone(), self.issuer.der().clone()];
        Presented { chain, key: PrivateKeyDer::try_from(key.serialize_der()).unwrap() }
    }
}

struct Presented {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// Accepts TLS connections with that certificate until the test ends.
async fn serve(presented: Presented) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(presented.chain, presented.key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = acceptor.accept(stream).await;
        }
    });
    address
}

async fn connect(pins: Vec<Pin>, presented: Presented) -> (Result<(), ControlError>, Option<Pin>) {
    let address = serve(presented).await;
    let url = BrokerUrl::parse(&format!("https://{address}")).unwrap();
    let tls = Tls::new(&Pins(pins)).unwrap();
    let result = dial(&url, &tls, &[]).await.map(|_| ());
    (result, tls.matched())
}

#[tokio::test]
async fn a_leaf_under_the_pinned_key_is_believed_whatever_its_name_and_dates() {
    let authority = Authority::new();
    for years in [(2020, 2090), (2001, 2002), (2080, 2090)] {
        let (result, matched) = connect(vec![authority.pin], authority.leaf(years)).await;
        result.unwrap_or_else(|error| panic!("{years:?}: {error}"));
        assert_eq!(matched, Some(authority.pin));
    }
}

#[tokio::test]
async fn the_next_pin_is_believed_and_reported() {
    let (old, new) = (Authority::new(), Authority::new());
    let (result, matched) = connect(vec![old.pin, new.pin], new.leaf((2020, 2090))).await;
    result.unwrap();
    assert_eq!(matched, Some(new.pin));
}

#[tokio::test]
async fn another_key_is_refused_in_words() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (result, _) = connect(vec![other.pin], authority.leaf((2020, 2090))).await;
    let error = result.unwrap_err();
    assert!(matches!(error, ControlError::WrongPin { .. }), "{error:?}");
    assert!(error.is_definitive());
    assert!(error.to_string().contains("another certificate than the join link promised"));
}

#[tokio::test]
async fn the_pinned_certificate_beside_a_foreign_leaf_is_refused() {
    let (authority, mallory) = (Authority::new(), Authority::new());
    let mut presented = mallory.leaf((2020, 2090));
    presented.chain.push(authority.issuer.der().clone());
    let (result, _) = connect(vec![authority.pin], presented).await;
    assert!(matches!(result, Err(ControlError::WrongPin { .. })), "{result:?}");
}

#[tokio::test]
async fn without_a_pin_an_unknown_authority_is_refused() {
    let (result, _) = connect(Vec::new(), Authority::new().leaf((2020, 2090))).await;
    assert!(matches!(result, Err(ControlError::Tls { .. })), "{result:?}");
}

#[tokio::test]
async fn a_dead_address_costs_a_quarter_second_and_not_the_connection() {
    let authority = Authority::new();
    let address = serve(authority.leaf((2020, 2090))).await;
    let url =
        BrokerUrl::parse(&format!("https://no-such-name.invalid:{}", address.port())).unwrap();
    let tls = Tls::new(&Pins(vec![authority.pin])).unwrap();
    // TEST-NET-1 swallows packets, or is unreachable; neither may matter.
    let known = ["192.0.2.1:9".parse().unwrap(), address];
    let dialled = dial(&url, &tls, &known).await.unwrap();
    assert_eq!(dialled.addresses[0], address);
}

mod any_chunking {
    use proptest::prelude::*;

    use crate::sse::{SseEvent, SseParser};

    fn parse(chunks: &[&[u8]]) -> Vec<SseEvent> {
        let mut parser = SseParser::new();
        let mut events = Vec::new();
        for chunk in chunks {
            parser.push(chunk, |event| events.push(event)).unwrap();
        }
        events
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just("event: delta"),
            Just("data: {\"a\":1}"),
            Just("data:"),
            Just("id: 1-2"),
            Just(":"),
            Just(": beat"),
            Just("retry: 5"),
            Just("\u{feff}"),
            Just("data: ü€"),
            Just("\n"),
            Just("\r"),
            Just("\r\n"),
            Just("\n\n"),
            Just("\r\n\r\n"),
            Just("\r\r"),
        ];
        prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn gives_the_same_events(
            stream in stream(),
            cuts in prop::collection::vec(0_usize..400, 0..40),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| (*cut).min(stream.len())).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> =
                cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
            prop_assert_eq!(parse(&chunks), parse(&[&stream]));
        }

        #[test]
        fn of_garbage_never_panics(stream in prop::collection::vec(0_u8.., 0..500)) {
            let bytewise: Vec<&[u8]> = stream.chunks(1).collect();
            prop_assert_eq!(parse(&bytewise), parse(&[&stream]));
        }
    }
}
