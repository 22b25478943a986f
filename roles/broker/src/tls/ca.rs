//! The broker's own certificate authority: made once, kept for years, pinned by its public key.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, SanType, SerialNumber,
};
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use time::{Duration, OffsetDateTime};
use warren_proto::Pin;

use crate::data_dir::DataDir;

/// The CA in use: private key and certificate, in PEM.
pub(crate) const CURRENT: &str = "ca.pem";
/// The CA that will follow, announced in the netmaps.
pub(crate) const NEXT: &str = "ca-next.pem";

const CA_YEARS: i64 = 100;
/// Browsers refuse more than 398 days; devices with a pin don't look at dates.
pub(crate) const LEAF_DAYS: i64 = 90;

/// An authority with its key.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pin: Pin,
}

impl Ca {
    /// Loads the authority in `file`, or makes it.
    pub(crate) fn load_or_create(data: &DataDir, file: &str) -> Result<Self> {
        match Self::load(data, file)? {
            Some(ca) => Ok(ca),
            None => Self::create(data, file),
        }
    }

    /// Loads the authority in `file`, if there is one.
    ///
    /// # Errors
    /// The file is there and can't be used: it is never replaced, since every device pins it.
    pub(crate) fn load(data: &DataDir, file: &str) -> Result<Option<Self>> {
        let Some(pem) = data.read(file)? else { return Ok(None) };
        Self::from_pem(&pem).map(Some).with_context(|| {
            format!(
                "{} is damaged; restore it from a backup: every device that has joined pins it",
                data.join(file).display()
            )
        })
    }

    /// Makes a new authority and keeps it in `file`.
    pub(crate) fn create(data: &DataDir, file: &str) -> Result<Self> {
        let key = KeyPair::generate().context("can't make the CA's key")?;
        let mut params = authority_params();
        let now = OffsetDateTime::now_utc();
        params.not_before = now - Duration::days(1);
        params.not_after = now + Duration::days(365 * CA_YEARS);
        let certificate = params.self_signed(&key).context("can't make the CA's certificate")?;
        let pem = format!("{}{}", key.serialize_pem(), certificate.pem());
        data.write_secret(file, pem.as_bytes())?;
        Self::from_pem(&pem)
    }

    fn from_pem(pem: &str) -> Result<Self> {
        let key = KeyPair::from_pem(pem).context("no private key in it")?;
        let certificate =
            CertificateDer::from_pem_slice(pem.as_bytes()).context("no certificate in it")?;
        let pin = pin_of(&key);
        Ok(Self { issuer: Issuer::new(authority_params(), key), certificate, pin })
    }

    /// What join links carry.
    pub(crate) fn pin(&self) -> Pin {
        self.pin
    }

    /// Issues a fresh certificate for these host names and addresses, with the CA's in the chain.
    pub(crate) fn issue(&self, names: &[String]) -> Result<Arc<CertifiedKey>> {
        let key = KeyPair::generate().context("can't make a TLS key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Warren broker");
        params.subject_alt_names = names.iter().filter_map(|name| subject_name(name)).collect();
        if params.subject_alt_names.is_empty() {
            bail!("a certificate needs a name");
        }
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.serial_number = Some(SerialNumber::from_slice(&rand::random::<[u8; 16]>()));
        let now = OffsetDateTime::now_utc();
        params.not_before = now - Duration::days(1);
        params.not_after = now + Duration::days(LEAF_DAYS);
        let leaf = params.signed_by(&key, &self.issuer).context("can't issue a certificate")?;
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signer = any_ecdsa_type(&private).context("can't use the TLS key")?;
        let chain = vec![leaf.der().clone(), self.certificate.clone()];
        Ok(Arc::new(CertifiedKey::new(chain, signer)))
    }
}

/// What of an authority's certificate its leaves must agree with.
fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Warren broker");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn subject_name(name: &str) -> Option<SanType> {
    match name.parse::<IpAddr>() {
        Ok(ip) => Some(SanType::IpAddress(ip)),
        Err(_) => name.try_into().ok().map(SanType::DnsName),
    }
}

fn pin_of(key: &KeyPair) -> Pin {
    let digest = ring::digest::digest(&ring::digest::SHA256, &key.subject_public_key_info());
    Pin(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pin_outlives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        let made = Ca::load_or_create(&data, CURRENT).unwrap();
        let loaded = Ca::load_or_create(&data, CURRENT).unwrap();
        assert_eq!(made.pin(), loaded.pin());
        assert_eq!(made.certificate, loaded.certificate);
    }

    #[test]
    fn a_damaged_ca_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        data.write_secret(CURRENT, b"rubbish").unwrap();
        let Err(error) = Ca::load_or_create(&data, CURRENT) else { panic!("must fail") };
        assert!(format!("{error:#}").contains("backup"));
        assert_eq!(data.read(CURRENT).unwrap().as_deref(), Some("rubbish"));
    }

    #[test]
    fn leaves_come_with_the_ca_in_the_chain() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        let ca = Ca::load_or_create(&data, CURRENT).unwrap();
        let names = ["broker.example.org".to_owned(), "203.0.113.7".to_owned()];
        let leaf = ca.issue(&names).unwrap();
        assert_eq!(leaf.cert.len(), 2);
        assert_eq!(leaf.cert[1], ca.certificate);
        assert!(ca.issue(&[]).is_err());
    }
}
