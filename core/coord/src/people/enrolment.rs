//! Second factors: begun, confirmed by a first code, taken away; recovery codes.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use warren_proto::UserId;

use super::{People, PeopleChange, TotpRecord, totp};
use crate::{Ctx, Prepared, Refused, SecretHash};

const LIFETIME: Duration = Duration::from_secs(15 * 60);
const RECOVERY_CODES: usize = 10;
/// 80 bits: 16 letters and digits in base32. A plain hash of so many can't be searched.
const RECOVERY_CODE_BYTES: usize = 10;

/// A second factor that waits for its first code.
#[derive(Clone, PartialEq, Eq)]
pub struct Enrolment {
    secret: [u8; 20],
    until: Instant,
}

impl fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Enrolment")
    }
}

impl Enrolment {
    /// The secret in base32, to be typed into an authenticator app.
    pub fn secret(&self) -> String {
        totp::base32(&self.secret)
    }

    /// The URI that the app reads from a QR code. The issuer is what the app shows beside it.
    pub fn uri(&self, issuer: &str, account: &str) -> String {
        totp::uri(&self.secret, issuer, account)
    }
}

impl People {
    /// Begins with a second factor; it counts once [`People::prepare_totp`] has seen a code of it.
    /// Asked again within a quarter of an hour it is the same one.
    ///
    /// # Errors
    /// [`Refused::NotFound`], or [`Refused::Invalid`] when there is one.
    pub fn begin_totp(&mut self, user: UserId, ctx: &Ctx) -> Result<Enrolment, Refused> {
        if self.known(user)?.totp.is_some() {
            return Err(Refused::Invalid("there is a second factor already; take it away first"));
        }
        self.enrolments.retain(|_, enrolment| enrolment.until > ctx.now);
        let secret = ctx.bytes("totp secret");
        let secret = *secret.first_chunk().expect("32 bytes hold 20");
        let fresh = Enrolment { secret, until: ctx.now + LIFETIME };
        Ok(self.enrolments.entry(user).or_insert(fresh).clone())
    }

    /// Confirms a second factor by its first code. The reply are the recovery codes, which exist
    /// nowhere else.
    ///
    /// # Errors
    /// [`Refused::TookTooLong`], [`Refused::CodeWrong`] or [`Refused::Invalid`] when there is one.
    pub fn prepare_totp(
        &self,
        user: UserId,
        code: &str,
        ctx: &Ctx,
    ) -> Result<Prepared<Vec<String>, PeopleChange>, Refused> {
        let mut record = self.known(user)?.clone();
        if record.totp.is_some() {
            return Err(Refused::Invalid("there is a second factor already; take it away first"));
        }
        let enrolment = self.enrolments.get(&user).filter(|it| it.until > ctx.now);
        let secret = enrolment.ok_or(Refused::TookTooLong)?.secret;
        let last_step = totp::verify(&secret, code, ctx.unix_time(), 0);
        let last_step = last_step.ok_or(Refused::CodeWrong)?;
        record.totp = Some(TotpRecord { secret, last_step });
        let (codes, hashes) = fresh_codes(ctx);
        record.recovery_codes = hashes;
        Ok(Prepared { changes: vec![PeopleChange::User(record)], reply: codes })
    }

    /// Takes a second factor away, with its recovery codes. The shell has asked for the password.
    ///
    /// # Errors
    /// [`Refused::NotFound`], also when there is none.
    pub fn prepare_no_totp(&self, user: UserId) -> Result<Prepared<(), PeopleChange>, Refused> {
        let mut record = self.known(user)?.clone();
        if record.totp.take().is_none() {
            return Err(Refused::NotFound("second factor"));
        }
        record.recovery_codes.clear();
        Ok(Prepared { changes: vec![PeopleChange::User(record)], reply: () })
    }

    /// Makes new recovery codes in place of the old ones.
    ///
    /// # Errors
    /// [`Refused::NotFound`], also when there is no second factor.
    pub fn prepare_recovery_codes(
        &self,
        user: UserId,
        ctx: &Ctx,
    ) -> Result<Prepared<Vec<String>, PeopleChange>, Refused> {
        let mut record = self.known(user)?.clone();
        if record.totp.is_none() {
            return Err(Refused::NotFound("second factor"));
        }
        let (codes, hashes) = fresh_codes(ctx);
        record.recovery_codes = hashes;
        Ok(Prepared { changes: vec![PeopleChange::User(record)], reply: codes })
    }
}

/// Codes as they are shown (`ABCD-EFGH-IJKL-MNOP`), and the hashes of them as they are compared.
fn fresh_codes(ctx: &Ctx) -> (Vec<String>, BTreeSet<SecretHash>) {
    let mut shown = Vec::new();
    let mut hashes = BTreeSet::new();
    for n in 0..RECOVERY_CODES {
        let bytes = ctx.bytes(&format!("recovery code {n}"));
        let plain = totp::base32(&bytes[..RECOVERY_CODE_BYTES]);
        hashes.insert(SecretHash::of(&plain));
        let groups: Vec<&str> = (0..4).map(|n| &plain[n * 4..n * 4 + 4]).collect();
        shown.push(groups.join("-"));
    }
    (shown, hashes)
}
