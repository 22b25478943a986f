//! Whom to believe: the holder of the pinned key, or the system's authorities.
//!
//! Under a pin, one certificate of the presented chain must carry the pinned key, and must have
//! signed the leaf (or be it). Names and dates are not looked at: the pin says more than a name,
//! and a device without a clock couldn't judge a date. Signatures are all checked.

use std::sync::{Arc, OnceLock};

use ring::digest::{SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use warren_proto::Pin;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

/// The keys that may speak for the broker: the present pin, and the announced next one. Empty: the
/// system's authorities decide.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pins(pub Vec<Pin>);

/// A TLS client, good for one connection.
#[derive(Debug, Clone)]
pub struct Tls {
    pub(crate) config: Arc<ClientConfig>,
    matched: Arc<OnceLock<Pin>>,
}

impl Tls {
    /// A client that believes `pins`, or the system's authorities if there are none.
    ///
    /// # Errors
    /// TLS can't be set up.
    pub fn new(pins: &Pins) -> Result<Self, rustls::Error> {
        Self::with_protocol(pins, b"h2")
    }

    /// The same for another protocol than HTTP/2 (ALPN, RFC 7301).
    ///
    /// # Errors
    /// TLS can't be set up.
    pub fn with_protocol(pins: &Pins, alpn: &[u8]) -> Result<Self, rustls::Error> {
        let matched = Arc::new(OnceLock::new());
        let mut config = client_config(pins, &matched)?;
        config.alpn_protocols = vec![alpn.to_vec()];
        Ok(Self { config: Arc::new(config), matched })
    }

    /// A client that believes the system's authorities and, besides, these.
    ///
    /// # Errors
    /// TLS can't be set up, or one of them is no certificate.
    pub fn with_authorities(
        extra: Vec<CertificateDer<'static>>,
        alpn: &[u8],
    ) -> Result<Self, rustls::Error> {
        let mut roots = system_roots();
        for authority in extra {
            roots.add(authority)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = config_with(provider.clone(), believing(roots, provider)?)?;
        config.alpn_protocols = vec![alpn.to_vec()];
        Ok(Self { config: Arc::new(config), matched: Arc::default() })
    }

    /// A client for a broker of which nothing is known but its URL: it believes the system's
    /// authorities, or else whoever answers, and then [`Tls::matched`] tells his pin. What he says
    /// is worth something only when people have compared a code that is bound to that pin.
    ///
    /// # Errors
    /// TLS can't be set up.
    pub fn first_contact() -> Result<Self, rustls::Error> {
        let matched = Arc::new(OnceLock::new());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let known = believing(system_roots(), provider.clone())?;
        let anybody = PinVerifier {
            pins: Pins::default(),
            provider: Arc::clone(&provider),
            matched: Arc::clone(&matched),
        };
        let verifier = Arc::new(FirstContact { known, anybody });
        let mut config = config_with(provider, verifier)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { config: Arc::new(config), matched })
    }

    /// What a TLS connection is made with.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// Which of the pins the broker's certificate carried.
    pub fn matched(&self) -> Option<Pin> {
        self.matched.get().copied()
    }
}

fn client_config(pins: &Pins, matched: &Arc<OnceLock<Pin>>) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = if pins.0.is_empty() {
        believing(system_roots(), Arc::clone(&provider))?
    } else {
        Arc::new(PinVerifier {
            pins: pins.clone(),
            provider: Arc::clone(&provider),
            matched: Arc::clone(matched),
        })
    };
    config_with(provider, verifier)
}

fn believing(
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))
}

fn config_with(
    provider: Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(2);
    Ok(config)
}

/// The system's authorities, or Mozilla's where the system keeps none.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

#[derive(Debug)]
struct PinVerifier {
    pins: Pins,
    provider: Arc<CryptoProvider>,
    matched: Arc<OnceLock<Pin>>,
}

impl PinVerifier {
    fn pin_of(&self, certificate: &CertificateDer<'_>) -> Option<Pin> {
        let parsed = EndEntityCert::try_from(certificate).ok()?;
        let spki = parsed.subject_public_key_info();
        let hash = digest(&SHA256, spki.as_ref());
        self.pins.0.iter().find(|pin| pin.0 == hash.as_ref()).copied()
    }

    /// The pin that vouches for `end_entity`.
    fn vouching_pin(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Option<Pin>, rustls::Error> {
        if let Some(pin) = self.pin_of(end_entity) {
            return Ok(Some(pin));
        }
        let leaf =
            EndEntityCert::try_from(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        Ok(intermediates.iter().find_map(|authority| {
            let pin = self.pin_of(authority)?;
            self.has_signed(authority, &leaf, now).is_ok().then_some(pin)
        }))
    }

    /// Whether `authority` has signed `leaf`, whenever that is or was valid.
    fn has_signed(
        &self,
        authority: &CertificateDer<'_>,
        leaf: &EndEntityCert<'_>,
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let anchors = [anchor_from_trusted_cert(authority)?];
        let verify = |time| {
            leaf.verify_for_usage(
                self.provider.signature_verification_algorithms.all,
                &anchors,
                &[],
                time,
                KeyUsage::server_auth(),
                None,
                None,
            )
            .map(|_| ())
        };
        match verify(now) {
            Err(webpki::Error::CertExpired { not_after, .. }) => verify(not_after),
            Err(webpki::Error::CertNotValidYet { not_before, .. }) => verify(not_before),
            other => other,
        }
    }
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.vouching_pin(end_entity, intermediates, now)? {
            Some(pin) => {
                let _ = self.matched.set(pin);
                Ok(ServerCertVerified::assertion())
            }
            None => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Believes the system's authorities, or else anybody whose chain holds together.
#[derive(Debug)]
struct FirstContact {
    known: Arc<WebPkiServerVerifier>,
    /// With the pin of whoever answers.
    anybody: PinVerifier,
}

impl ServerCertVerifier for FirstContact {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let known = &self.known;
        let verified =
            known.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        if verified.is_ok() {
            return verified;
        }
        // The broker's own authority ends its chain.
        let authority = intermediates.last().unwrap_or(end_entity);
        let parsed =
            EndEntityCert::try_from(authority).map_err(|_| CertificateError::BadEncoding)?;
        let mut pin = Pin([0; 32]);
        pin.0.copy_from_slice(digest(&SHA256, parsed.subject_public_key_info().as_ref()).as_ref());
        let anybody = PinVerifier {
            pins: Pins(vec![pin]),
            provider: Arc::clone(&self.anybody.provider),
            matched: Arc::clone(&self.anybody.matched),
        };
        anybody.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.anybody.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.anybody.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.anybody.supported_verify_schemes()
    }
}
