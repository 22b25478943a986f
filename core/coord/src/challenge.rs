//! Proof that a device holds the private key of the public key that it registers.
//!
//! The broker has an X25519 key of its own for as long as the process lives. The device computes
//! the Diffie-Hellman secret of that key and its own, and keys with it an HMAC-SHA-256 over what
//! it has verified of the broker, the challenge, its public key and the join key
//! ([`warren_proto::possession_message`]). Who doesn't hold the device's private key can't, and a broker
//! that the device did verify can't use its answer at another one.
//!
//! Challenges cost no memory: `expiry (8) | nonce (16) | HMAC-SHA-256 (32)` in base64url, the expiry
//! in milliseconds since the gatekeeper was made.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use warren_proto::{
    BrokerIdentity, Challenge, OLDEST_PROTOCOL, PROTOCOL, PublicKey, Register, possession_message,
};
use x25519_dalek::StaticSecret;

use crate::Refused;

/// How long a challenge may be answered.
pub const CHALLENGE_LIFETIME: Duration = Duration::from_secs(300);

/// Gives out challenges and checks the answers; one for the whole broker process.
pub struct Gatekeeper {
    secret: StaticSecret,
    public: PublicKey,
    mac: hmac::Key,
    born: Instant,
}

/// A registration whose sender has proven that it holds the device's private key.
#[derive(Debug, Clone)]
pub struct Proven(Register);

impl Proven {
    /// The registration.
    pub fn register(&self) -> &Register {
        &self.0
    }
}

impl Gatekeeper {
    /// Makes a gatekeeper whose keys come from 32 random bytes.
    pub fn new(seed: [u8; 32], now: Instant) -> Self {
        let derive =
            |purpose: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &seed), purpose);
        let dh: [u8; 32] =
            derive(b"gatekeeper x25519").as_ref().try_into().expect("HMAC-SHA-256 gives 32 bytes");
        let secret = StaticSecret::from(dh);
        let public = PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes());
        let mac = hmac::Key::new(hmac::HMAC_SHA256, derive(b"gatekeeper challenge").as_ref());
        Self { secret, public, mac, born: now }
    }

    /// Gives out a challenge that may be answered within [`CHALLENGE_LIFETIME`].
    pub fn challenge(&self, nonce: [u8; 16], now: Instant) -> Challenge {
        let expires = self.millis(now + CHALLENGE_LIFETIME);
        let mut bytes = expires.to_be_bytes().to_vec();
        bytes.extend_from_slice(&nonce);
        let tag = hmac::sign(&self.mac, &bytes);
        bytes.extend_from_slice(tag.as_ref());
        Challenge {
            broker_key: self.public,
            challenge: URL_SAFE_NO_PAD.encode(bytes),
            protocol: PROTOCOL,
        }
    }

    /// Checks a registration's protocol version, challenge and proof; `own` is what a device
    /// verifies of this broker.
    ///
    /// # Errors
    /// [`Refused::UpgradeRequired`], [`Refused::ChallengeExpired`] or [`Refused::ProofFailed`].
    pub fn verify(
        &self,
        register: Register,
        own: &BrokerIdentity,
        now: Instant,
    ) -> Result<Proven, Refused> {
        if register.protocol < OLDEST_PROTOCOL {
            return Err(Refused::UpgradeRequired);
        }
        self.verify_challenge(&register.challenge, now)?;
        let shared = self.secret.diffie_hellman(&x25519_dalek::PublicKey::from(register.key.0));
        if !shared.was_contributory() {
            return Err(Refused::ProofFailed);
        }
        let Register { challenge, key, join_key, .. } = &register;
        let message = possession_message(own, challenge, key, join_key);
        let key = hmac::Key::new(hmac::HMAC_SHA256, shared.as_bytes());
        let proof = URL_SAFE_NO_PAD.decode(&register.proof).map_err(|_| Refused::ProofFailed)?;
        hmac::verify(&key, &message, &proof).map_err(|_| Refused::ProofFailed)?;
        Ok(Proven(register))
    }

    fn verify_challenge(&self, challenge: &str, now: Instant) -> Result<(), Refused> {
        let bytes = URL_SAFE_NO_PAD.decode(challenge).map_err(|_| Refused::ChallengeExpired)?;
        let (signed, tag) = bytes.split_at_checked(8 + 16).ok_or(Refused::ChallengeExpired)?;
        hmac::verify(&self.mac, signed, tag).map_err(|_| Refused::ChallengeExpired)?;
        let expires = u64::from_be_bytes(*signed.first_chunk().ok_or(Refused::ChallengeExpired)?);
        if self.millis(now) < expires { Ok(()) } else { Err(Refused::ChallengeExpired) }
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.duration_since(self.born).as_millis()).unwrap_or(u64::MAX)
    }
}

/// Answers a challenge as a device does that has verified `broker`: [`Register::proof`].
pub fn prove(
    private_key: &[u8; 32],
    broker: &BrokerIdentity,
    challenge: &Challenge,
    join_key: &str,
) -> String {
    let secret = StaticSecret::from(*private_key);
    let public = PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes());
    let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(challenge.broker_key.0));
    let message = possession_message(broker, &challenge.challenge, &public, join_key);
    let key = hmac::Key::new(hmac::HMAC_SHA256, shared.as_bytes());
    URL_SAFE_NO_PAD.encode(hmac::sign(&key, &message))
}

#[cfg(test)]
mod tests {
    use warren_proto::Pin;

    use super::*;

    const DEVICE: [u8; 32] = [5; 32];
    const OWN: BrokerIdentity = BrokerIdentity::Pin(Pin([6; 32]));

    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to begin with")]
    fn start() -> (Gatekeeper, Instant) {
        let now = Instant::now();
        (Gatekeeper::new([1; 32], now), now)
    }

    fn register(challenge: &Challenge) -> Register {
        register_at(&OWN, challenge)
    }

    fn register_at(broker: &BrokerIdentity, challenge: &Challenge) -> Register {
        let secret = StaticSecret::from(DEVICE);
        Register {
            protocol: PROTOCOL,
            join_key: "a join key".to_owned(),
            key: PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes()),
            challenge: challenge.challenge.clone(),
            proof: prove(&DEVICE, broker, challenge, "a join key"),
            name: "Kitchen Pi".to_owned(),
            os: String::new(),
            software: String::new(),
        }
    }

    #[test]
    fn who_holds_the_private_key_passes_until_the_challenge_is_too_old() {
        let (gate, now) = start();
        let challenge = gate.challenge([7; 16], now);
        let later = now + CHALLENGE_LIFETIME - Duration::from_millis(1);
        assert!(gate.verify(register(&challenge), &OWN, later).is_ok());
        let refused =
            gate.verify(register(&challenge), &OWN, now + CHALLENGE_LIFETIME).unwrap_err();
        assert_eq!(refused, Refused::ChallengeExpired);
    }

    #[test]
    fn another_key_join_key_challenge_or_process_fails() {
        let (gate, now) = start();
        let challenge = gate.challenge([7; 16], now);
        let good = register(&challenge);
        let other_key = Register { key: PublicKey([9; 32]), ..good.clone() };
        let other_join_key = Register { join_key: "another".to_owned(), ..good.clone() };
        let fresh = gate.challenge([8; 16], now).challenge;
        let replayed = Register { challenge: fresh, ..good.clone() };
        let zero_key = Register { key: PublicKey([0; 32]), ..good.clone() };
        for forged in [other_key, other_join_key, replayed, zero_key] {
            assert_eq!(gate.verify(forged, &OWN, now).unwrap_err(), Refused::ProofFailed);
        }
        let restarted = Gatekeeper::new([2; 32], now);
        assert_eq!(
            restarted.verify(good.clone(), &OWN, now).unwrap_err(),
            Refused::ChallengeExpired
        );
        for garbage in ["", "AAAA", "!", &"A".repeat(75)] {
            let forged = Register { challenge: garbage.to_owned(), ..good.clone() };
            assert_eq!(gate.verify(forged, &OWN, now).unwrap_err(), Refused::ChallengeExpired);
        }
        let old = Register { protocol: 0, ..good };
        assert_eq!(gate.verify(old, &OWN, now).unwrap_err(), Refused::UpgradeRequired);
    }

    #[test]
    fn what_was_proven_to_another_broker_fails() {
        let (gate, now) = start();
        // The other one passes this broker's challenge on, and the answer back.
        let challenge = gate.challenge([7; 16], now);
        let named = BrokerIdentity::host("broker.example.org");
        for other in [BrokerIdentity::Pin(Pin([9; 32])), named.clone()] {
            let relayed = register_at(&other, &challenge);
            assert_eq!(gate.verify(relayed, &OWN, now).unwrap_err(), Refused::ProofFailed);
        }
        let register = register_at(&named, &challenge);
        assert!(gate.verify(register.clone(), &named, now).is_ok());
        let other = BrokerIdentity::host("broker.example.com");
        assert_eq!(gate.verify(register, &other, now).unwrap_err(), Refused::ProofFailed);
    }
}
