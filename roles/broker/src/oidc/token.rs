//! ID tokens: whose signature they bear, whom they are for, how long they are good (OpenID Connect
//! Core §3.1.3.7).

use anyhow::{Context as _, Result, bail, ensure};
use jsonwebtoken::crypto::{CryptoProvider, JwkUtils, JwtVerifier};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, Validation, decode, decode_header,
};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use serde::Deserialize;
use warren_coord::Email;

/// How far the clocks may differ, in seconds.
const LEEWAY: u64 = 60;

/// What an ID token (and the userinfo endpoint) says of somebody.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    pub(super) sub: String,
    #[serde(default)]
    aud: Audience,
    azp: Option<String>,
    nonce: Option<String>,
    pub(super) email: Option<String>,
    pub(super) email_verified: Option<Flag>,
    pub(super) name: Option<String>,
}

impl Claims {
    /// His address, if the provider says that it has verified it, and in so many words.
    pub(super) fn verified_email(&self) -> Option<Email> {
        let is_verified = match self.email_verified.as_ref()? {
            Flag::Is(is) => *is,
            Flag::Said(text) => text == "true",
        };
        self.email.as_ref().filter(|_| is_verified)?.parse().ok()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
enum Audience {
    #[default]
    Nobody,
    One(String),
    Many(Vec<String>),
}

/// Some providers write truth values as texts.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Flag {
    Is(bool),
    Said(String),
}

/// A provider's keys.
pub(super) struct Keys(Vec<Jwk>);

#[derive(Deserialize)]
pub(super) struct KeySet {
    keys: Vec<serde_json::Value>,
}

impl Keys {
    /// Leaves out keys of kinds that aren't known here, and those that don't sign.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn read(set: &KeySet) -> Result<Self> {
        let known = set.keys.iter().filter_map(|key| Jwk::deserialize(key).ok());
        let signs = |key: &Jwk| key.common.public_key_use != Some(PublicKeyUse::Encryption);
        let keys: Vec<Jwk> = known.filter(signs).collect();
        ensure!(!keys.is_empty(), "the provider has no key that signs ID tokens");
        Ok(Self(keys))
    }

    /// Whether the key is here that a token says it is signed with.
    ///
    /// # Errors
    /// It is no token.
    pub(super) fn has(&self, token: &str) -> Result<bool> {
        let header = decode_header(token).context("the ID token")?;
        Ok(header.kid.is_none() || self.0.iter().any(|key| key.common.key_id == header.kid))
    }

    /// What a token says that this issuer made for this client, in answer to this nonce.
    ///
    /// # Errors
    /// It is not that.
    pub(super) fn check(
        &self,
        token: &str,
        issuer: &str,
        client: &str,
        nonce: &str,
    ) -> Result<Claims> {
        let header = decode_header(token).context("the ID token")?;
        ensure!(
            header.alg.family() != AlgorithmFamily::Hmac,
            "the ID token is signed with {:?}, which isn't taken: have the provider use RS256 or \
             ES256",
            header.alg
        );
        let mut validation = Validation::new(header.alg);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[client]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let fits = |key: &&Jwk| header.kid.is_none() || key.common.key_id == header.kid;
        let keys = self.0.iter().filter(fits).filter_map(|key| DecodingKey::from_jwk(key).ok());
        let mut failed = Error::from(ErrorKind::InvalidSignature);
        for key in keys.filter(|key| key.family() == header.alg.family()) {
            match decode::<Claims>(token, &key, &validation) {
                Ok(found) => return check_claims(found.claims, client, nonce),
                Err(error) => failed = error,
            }
        }
        Err(anyhow::Error::new(failed).context("the ID token isn't good"))
    }
}

fn check_claims(claims: Claims, client: &str, nonce: &str) -> Result<Claims> {
    match (&claims.azp, &claims.aud) {
        (Some(azp), _) if azp != client => bail!("the ID token was made for another client"),
        (None, Audience::Many(all)) if all.len() > 1 => {
            bail!("the ID token is for several clients and doesn't say for which")
        }
        (_, Audience::One(only)) if only != client => {
            bail!("the ID token is for another client")
        }
        (Some(_) | None, _) => {}
    }
    ensure!(claims.nonce.as_deref() == Some(nonce), "the ID token answers another request");
    Ok(claims)
}

/// Has this process check tokens by ring, its one provider of cryptography.
pub(super) fn verify_by_ring() {
    static RING: CryptoProvider = CryptoProvider {
        signer_factory: |_, _| Err(ErrorKind::InvalidAlgorithm.into()),
        verifier_factory: |algorithm, key| {
            Ok(Box::new(ByRing { algorithm: *algorithm, key: key.clone() }))
        },
        jwk_utils: JwkUtils::new_unimplemented(),
    };
    // Who comes second finds it done.
    let _ = RING.install_default();
}

struct ByRing {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl ByRing {
    fn rsa(
        &self,
        parameters: &'static RsaParameters,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), ring::error::Unspecified> {
        match self.key.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            DecodingKeyKind::SecretOrDer(_) => Err(ring::error::Unspecified),
        }
    }

    fn curve(
        &self,
        algorithm: &'static dyn ring::signature::VerificationAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), ring::error::Unspecified> {
        match self.key.kind() {
            DecodingKeyKind::SecretOrDer(point) => {
                UnparsedPublicKey::new(algorithm, point).verify(message, signature)
            }
            DecodingKeyKind::RsaModulusExponent { .. } => Err(ring::error::Unspecified),
        }
    }
}

impl signature::Verifier<Vec<u8>> for ByRing {
    fn verify(&self, message: &[u8], signed: &Vec<u8>) -> Result<(), signature::Error> {
        let verified = match self.algorithm {
            _ if self.key.family() != self.algorithm.family() => Err(ring::error::Unspecified),
            Algorithm::RS256 => self.rsa(&RSA_PKCS1_2048_8192_SHA256, message, signed),
            Algorithm::RS384 => self.rsa(&RSA_PKCS1_2048_8192_SHA384, message, signed),
            Algorithm::RS512 => self.rsa(&RSA_PKCS1_2048_8192_SHA512, message, signed),
            Algorithm::PS256 => self.rsa(&RSA_PSS_2048_8192_SHA256, message, signed),
            Algorithm::PS384 => self.rsa(&RSA_PSS_2048_8192_SHA384, message, signed),
            Algorithm::PS512 => self.rsa(&RSA_PSS_2048_8192_SHA512, message, signed),
            Algorithm::ES256 => self.curve(&ECDSA_P256_SHA256_FIXED, message, signed),
            Algorithm::ES384 => self.curve(&ECDSA_P384_SHA384_FIXED, message, signed),
            Algorithm::EdDSA => self.curve(&ED25519, message, signed),
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => Err(ring::error::Unspecified),
        };
        verified.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for ByRing {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
    use serde_json::{Value, json};

    use super::*;

    fn now() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

    fn claims(change: &Value) -> Value {
        let mut all = json!({
            "iss": "https://id", "aud": "warren", "sub": "7", "nonce": "n",
            "exp": now() + 100, "iat": now(),
        });
        for (key, value) in change.as_object().unwrap() {
            all[key] = value.clone();
        }
        all
    }

    struct Signer(EcdsaKeyPair, SystemRandom);

    impl Signer {
        fn new() -> Self {
            let random = SystemRandom::new();
            let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
            let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
            Self(EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap(), random)
        }

        fn token(&self, header: &Value, claims: &Value) -> String {
            let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let message = format!("{}.{}", part(header), part(claims));
            let signed = self.0.sign(&self.1, message.as_bytes()).unwrap();
            format!("{message}.{}", URL_SAFE_NO_PAD.encode(signed))
        }

        fn jwk(&self, kid: &str) -> Value {
            let point = self.0.public_key().as_ref();
            let [x, y] = [&point[1..33], &point[33..]].map(|it| URL_SAFE_NO_PAD.encode(it));
            json!({"kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "x": x, "y": y})
        }
    }

    fn check(keys: &[Value], token: &str) -> Result<Claims> {
        verify_by_ring();
        let keys = Keys::read(&KeySet { keys: keys.to_vec() })?;
        keys.check(token, "https://id", "warren", "n")
    }

    #[test]
    fn a_token_is_good_for_its_issuer_client_nonce_and_time_alone() {
        let signer = Signer::new();
        let keys = [json!({"kty": "novel"}), signer.jwk("a")];
        let header = json!({"alg": "ES256", "kid": "a"});
        let with = |change: &Value| check(&keys, &signer.token(&header, &claims(change)));
        assert_eq!(with(&json!({})).unwrap().sub, "7");
        assert!(with(&json!({"aud": ["warren"]})).is_ok());
        assert!(with(&json!({"aud": ["warren", "x"], "azp": "warren"})).is_ok());
        assert!(with(&json!({"exp": now() - 30})).is_ok(), "clocks differ");
        for wrong in [
            json!({"iss": "https://evil"}),
            json!({"iss": null}),
            json!({"aud": "other"}),
            json!({"aud": null}),
            json!({"aud": []}),
            json!({"aud": ["warren", "x"]}),
            json!({"azp": "other"}),
            json!({"sub": null}),
            json!({"nonce": "other"}),
            json!({"nonce": null}),
            json!({"exp": now() - 100}),
            json!({"exp": null}),
            json!({"exp": "never"}),
            json!({"nbf": now() + 1000}),
        ] {
            assert!(with(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_signature_is_of_a_key_of_the_provider_and_of_its_kind() {
        let (signer, other) = (Signer::new(), Signer::new());
        let keys = [signer.jwk("a")];
        let good = claims(&json!({}));
        assert!(check(&keys, &signer.token(&json!({"alg": "ES256"}), &good)).is_ok(), "no kid");
        for (signer, header) in [
            (&other, json!({"alg": "ES256", "kid": "a"})),
            (&signer, json!({"alg": "ES256", "kid": "b"})),
            (&signer, json!({"alg": "none"})),
            (&signer, json!({"alg": "ES384", "kid": "a"})),
            (&signer, json!({"alg": "RS256", "kid": "a"})),
            (&signer, json!({"alg": "EdDSA", "kid": "a"})),
        ] {
            assert!(check(&keys, &signer.token(&header, &good)).is_err(), "{header}");
        }
        let token = signer.token(&json!({"alg": "ES256"}), &good);
        let (message, _) = token.rsplit_once('.').unwrap();
        assert!(check(&keys, &format!("{message}.")).is_err(), "unsigned");
        // The public key as the secret of an HMAC.
        let mac = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, signer.0.public_key().as_ref());
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&json!({"alg": "HS256"})), part(&good));
        let signed = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&mac, message.as_bytes()));
        assert!(check(&keys, &format!("{message}.{signed}")).is_err());
        assert!(check(&[json!({"kty": "novel"})], &token).is_err(), "no key at all");
    }

    #[test]
    fn edwards_curves_are_taken_too() {
        let random = SystemRandom::new();
        let key = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let key = Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap();
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&json!({"alg": "EdDSA"})), part(&claims(&json!({}))));
        let signed = URL_SAFE_NO_PAD.encode(key.sign(message.as_bytes()));
        let x = URL_SAFE_NO_PAD.encode(key.public_key());
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": x});
        assert!(check(&[jwk], &format!("{message}.{signed}")).is_ok());
    }

    #[test]
    fn an_address_counts_when_the_provider_says_so() {
        let email = |change: &Value| {
            let mut all = json!({"sub": "7", "email": "Ann@Example.org"});
            all.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            serde_json::from_value::<Claims>(all).unwrap().verified_email()
        };
        let ann: Email = "ann@example.org".parse().unwrap();
        assert_eq!(email(&json!({"email_verified": true})), Some(ann.clone()));
        assert_eq!(email(&json!({"email_verified": "true"})), Some(ann));
        for no in [json!({}), json!({"email_verified": false}), json!({"email_verified": "false"})]
        {
            assert_eq!(email(&no), None, "{no}");
        }
    }
}
