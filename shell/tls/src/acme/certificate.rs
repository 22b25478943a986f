//! A certificate with its key, as one PEM file: the key (PKCS #8) first, then the chain.

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, Result, anyhow, ensure};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use yasna::tags::TAG_UTCTIME;
use yasna::{ASN1Result, BERReader, Tag};

use super::schedule::Validity;

/// A certificate that can be shown.
#[derive(Debug)]
pub(super) struct Certificate {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) validity: Validity,
}

impl Certificate {
    /// # Errors
    /// It isn't PEM, lacks the key or the certificate, or they don't belong together.
    pub(super) fn from_pem(pem: &[u8]) -> Result<Self> {
        let key = PrivateKeyDer::from_pem_slice(pem).context("there is no private key")?;
        let chain = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<Vec<_>, _>>()
            .context("it isn't PEM")?;
        ensure!(!chain.is_empty(), "there is no certificate");
        let validity = validity(&chain[0])?;
        let key = CertifiedKey::from_der(chain, key, &default_provider())
            .context("key and certificate don't belong together")?;
        Ok(Self { key: Arc::new(key), validity })
    }
}

/// RFC 5280 §4.1: of what an authority has signed, the validity comes after an optional version, the
/// serial number, the signature's algorithm and the issuer.
fn validity(certificate: &CertificateDer<'_>) -> Result<Validity> {
    let found = yasna::parse_der(certificate, |reader| {
        reader.read_sequence(|certificate| {
            let validity = certificate.next().read_sequence(|signed| {
                signed.read_optional(|version| {
                    version.read_tagged(Tag::context(0), |version| version.read_u8())
                })?;
                for _ in ["serial number", "algorithm", "issuer"] {
                    signed.next().read_der()?;
                }
                let validity = signed.next().read_sequence(|dates| {
                    let not_before = time(dates.next())?;
                    Ok(Validity { not_before, not_after: time(dates.next())? })
                })?;
                while signed.read_optional(|rest| rest.read_der())?.is_some() {}
                Ok(validity)
            })?;
            for _ in ["algorithm", "signature"] {
                certificate.next().read_der()?;
            }
            Ok(validity)
        })
    });
    found.map_err(|error| anyhow!("it isn't an X.509 certificate: {error}"))
}

/// Two forms: before 2050 and after (RFC 5280 §4.1.2.5).
fn time(reader: BERReader<'_, '_>) -> ASN1Result<SystemTime> {
    if reader.lookahead_tag()? == TAG_UTCTIME {
        Ok((*reader.read_utctime()?.datetime()).into())
    } else {
        Ok((*reader.read_generalized_time()?.datetime()).into())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    /// As `rustls-acme` 0.15 left it in the folder.
    const KEPT: &[u8] = include_bytes!("../../tests/kept/certificate-0sVZH_WaQtRKH-9KBNA_nw.pem");

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn what_the_code_before_this_kept_is_read() {
        let kept = Certificate::from_pem(KEPT).unwrap();
        assert_eq!(kept.key.cert.len(), 2);
        let lifetime = kept.validity.not_after.duration_since(kept.validity.not_before).unwrap();
        assert_eq!(lifetime.as_secs(), 157_766_399);
    }

    #[test]
    fn both_forms_of_dates_are_read() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["x.test".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 11, 30);
        params.not_after = rcgen::date_time_ymd(2061, 1, 1);
        let pem = key.serialize_pem() + &params.self_signed(&key).unwrap().pem();
        let validity = Certificate::from_pem(pem.as_bytes()).unwrap().validity;
        assert_eq!(validity.not_before, at(1_795_996_800));
        assert_eq!(validity.not_after, at(2_871_763_200));
    }

    #[test]
    fn what_is_broken_or_belongs_to_another_key_is_refused_and_nothing_panics() {
        for length in 0..KEPT.len() {
            let _ = Certificate::from_pem(&KEPT[..length]);
        }
        let der = CertificateDer::from_pem_slice(KEPT).unwrap();
        for length in 0..der.len() {
            assert!(validity(&der[..length].into()).is_err(), "{length}");
        }
        let foreign = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let start = KEPT.windows(22).position(|text| text == b"-----BEGIN CERTIFICATE").unwrap();
        let mixed = [foreign.as_bytes(), &KEPT[start..]].concat();
        assert!(Certificate::from_pem(&mixed).is_err());
    }
}
