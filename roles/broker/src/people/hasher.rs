//! Passwords: Argon2id, few at a time, off the runtime's threads.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use argon2::password_hash::phc::PasswordHash as Phc;
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use tokio::sync::Semaphore;
use warren_coord::PasswordHash;
use warren_proto::ErrorCode;

use crate::api::problem::{ApiResult, Failure};

/// OWASP's Password Storage Cheat Sheet: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// Each takes 19 MiB and tens of milliseconds of a core.
const AT_ONCE: usize = 2;
/// Those that wait besides: some seconds' worth.
const WAITING: usize = 64;

pub(super) struct Hasher {
    places: Arc<Semaphore>,
    queue: Arc<Semaphore>,
    /// What a password is checked against where there is no user.
    nobodys: PasswordHash,
}

impl Hasher {
    /// Makes the hash that stands in for those of strangers.
    pub(super) async fn start() -> Result<Self> {
        let nobodys = tokio::task::spawn_blocking(|| hash("nobody's", rand::random())).await??;
        Ok(Self {
            places: Arc::new(Semaphore::new(AT_ONCE)),
            queue: Arc::new(Semaphore::new(AT_ONCE + WAITING)),
            nobodys,
        })
    }

    /// Hashes a password with a salt of its own.
    pub(super) async fn hash(&self, password: String) -> ApiResult<PasswordHash> {
        self.run(move || hash(&password, rand::random())).await
    }

    /// Whether a password is the one with that hash; without one it takes as long and isn't.
    pub(super) async fn verify(
        &self,
        password: String,
        hash: Option<PasswordHash>,
    ) -> ApiResult<bool> {
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.nobodys.clone());
        let right = self.run(move || verify(&password, &hash)).await?;
        Ok(known && right)
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> ApiResult<T> {
        let queued = self.queue.clone().try_acquire_owned().map_err(|_| {
            Failure::new(ErrorCode::RateLimited, "too many people sign in just now; try again soon")
        })?;
        let closed = |_| Failure::unavailable(&anyhow!("the broker is shutting down"));
        let place = self.places.clone().acquire_owned().await.map_err(closed)?;
        // The places go with the work, not with who waits for it.
        let working = tokio::task::spawn_blocking(move || {
            let done = work();
            drop((place, queued));
            done
        });
        let done = working.await.map_err(anyhow::Error::new).and_then(|done| done);
        done.map_err(|error| Failure::unavailable(&error))
    }
}

fn argon2() -> Result<Argon2<'static>> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None);
    let params = params.map_err(|error| anyhow!("Argon2's parameters: {error}"))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn hash(password: &str, salt: [u8; 16]) -> Result<PasswordHash> {
    let hash = argon2()?.hash_password_with_salt(password.as_bytes(), &salt);
    let hash = hash.map_err(|error| anyhow!("can't hash a password: {error}"))?;
    Ok(PasswordHash(hash.to_string()))
}

/// A hash says by which parameters it was made.
fn verify(password: &str, hash: &PasswordHash) -> Result<bool> {
    use argon2::password_hash::Error;
    let hash = Phc::new(&hash.0).map_err(|_| anyhow!("a stored password's hash is damaged"))?;
    match argon2()?.verify_password(password.as_bytes(), &hash) {
        Ok(()) => Ok(true),
        Err(Error::PasswordInvalid) => Ok(false),
        Err(error) => Err(anyhow!("can't check a password: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_known_by_its_hash_and_nobodys_is_none() {
        let hasher = Hasher::start().await.unwrap();
        let hash = hasher.hash("correct horse battery".to_owned()).await.unwrap();
        assert!(hash.0.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hash.0);
        let twin = hasher.hash("correct horse battery".to_owned()).await.unwrap();
        assert_ne!(hash, twin, "each has a salt of its own");
        let check = |text: &str, hash| hasher.verify(text.to_owned(), hash);
        assert!(check("correct horse battery", Some(hash.clone())).await.unwrap());
        assert!(!check("correct horse", Some(hash)).await.unwrap());
        assert!(!check("nobody's", None).await.unwrap());
        let damaged = Some(PasswordHash("$argon2id$nonsense".to_owned()));
        assert!(check("correct horse battery", damaged).await.is_err());
    }
}
