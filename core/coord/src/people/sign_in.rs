//! Showing who one is: password and second factor.

use std::fmt;
use std::time::{Duration, Instant};

use warren_proto::{UserId, WebSessionId};

use super::session::{ClientInfo, WebSessionCreated};
use super::{
    Email, PasswordHash, People, PeopleChange, SignInMethod, TotpRecord, UserRecord, totp,
};
use crate::limit::Bucket;
use crate::secret::secret_text;
use crate::{Ctx, Prepared, Refused, SecretHash};

/// How long a sign-in waits for its second factor.
const HALF_LIFETIME: Duration = Duration::from_secs(5 * 60);
/// Wrong codes that one sign-in may give.
const CODES_PER_HALF: u32 = 5;
/// Codes from the app that a user may give at once, and how soon there is one more: a million
/// codes, three of them good at a time.
const CODES_AT_ONCE: u32 = 10;
const CODE_INTERVAL: Duration = Duration::from_secs(60);
/// Sign-ins of one user that wait at once.
const HALVES_PER_USER: usize = 5;

/// A sign-in whose password was right.
#[derive(Debug)]
pub(super) struct Half {
    pub(super) user: UserId,
    password: PasswordHash,
    until: Instant,
    wrong: u32,
}

/// Somebody has shown who he is: [`People::prepare_sign_in`] makes it a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    user: UserId,
    method: SignInMethod,
    spent: Spent,
    /// What it was checked against: a password that has been changed since is none.
    password: Option<PasswordHash>,
}

impl Proof {
    /// Who.
    pub fn user(&self) -> UserId {
        self.user
    }
}

/// What is good once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spent {
    Nothing,
    Step(u64),
    RecoveryCode(SecretHash),
}

/// What comes after a right password.
#[derive(Clone, PartialEq, Eq)]
pub enum SignInStep {
    /// Nothing: that was all.
    Done(Proof),
    /// A code from the authenticator app, or a recovery code, for [`People::handle_code`].
    SecondFactor {
        /// What names this sign-in, for five minutes: a secret.
        secret: String,
    },
}

impl fmt::Debug for SignInStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(proof) => write!(f, "Done({:?})", proof.user),
            Self::SecondFactor { .. } => f.write_str("SecondFactor"),
        }
    }
}

impl People {
    /// What the shell checks a password against; `None`: there is no such user or he has none. Then
    /// it checks against a hash of its own, so that nobody can tell by the time that it takes.
    pub fn password_of(&self, email: &Email) -> Option<(UserId, PasswordHash)> {
        let user = self.user_with_email(email)?;
        Some((user.id, user.password.clone()?))
    }

    /// Takes notice of a password that was right.
    ///
    /// # Errors
    /// [`Refused::SignInFailed`] if it has been changed meanwhile, [`Refused::UserSuspended`].
    pub fn handle_password(
        &mut self,
        user: UserId,
        checked: &PasswordHash,
        ctx: &Ctx,
    ) -> Result<SignInStep, Refused> {
        let record = self.users.get(&user).ok_or(Refused::SignInFailed)?;
        if record.password.as_ref() != Some(checked) {
            return Err(Refused::SignInFailed);
        }
        if record.suspended {
            return Err(Refused::UserSuspended);
        }
        if record.totp.is_none() {
            return Ok(SignInStep::Done(Proof {
                user,
                method: SignInMethod::Password,
                spent: Spent::Nothing,
                password: Some(checked.clone()),
            }));
        }
        let secret = secret_text(&ctx.bytes("half sign-in")[..24]);
        self.halves.retain(|_, half| half.until > ctx.now);
        let mut waiting: Vec<_> = self
            .halves
            .iter()
            .filter(|(_, half)| half.user == user)
            .map(|(hash, half)| (half.until, *hash))
            .collect();
        waiting.sort_unstable();
        let surplus = (waiting.len() + 1).saturating_sub(HALVES_PER_USER);
        for (_, hash) in waiting.into_iter().take(surplus) {
            self.halves.remove(&hash);
        }
        let half =
            Half { user, password: checked.clone(), until: ctx.now + HALF_LIFETIME, wrong: 0 };
        self.halves.insert(SecretHash::of(&secret), half);
        Ok(SignInStep::SecondFactor { secret })
    }

    /// Checks the second factor: a code from the app, or a recovery code.
    ///
    /// # Errors
    /// [`Refused::TookTooLong`], also after five wrong codes; [`Refused::CodeWrong`];
    /// [`Refused::RateLimited`] after many: recovery codes are still taken then.
    pub fn handle_code(&mut self, half: &str, code: &str, ctx: &Ctx) -> Result<Proof, Refused> {
        let hash = SecretHash::of(half);
        let found = self.halves.get(&hash).filter(|half| half.until > ctx.now);
        let found = found.ok_or(Refused::TookTooLong)?;
        let (user, password) = (found.user, found.password.clone());
        let record = self.users.get(&user).ok_or(Refused::TookTooLong)?;
        let checked = match recovery_code(record, code) {
            Some(code) => Ok((SignInMethod::PasswordAndRecoveryCode, Spent::RecoveryCode(code))),
            None => self.check_app_code(user, code, ctx),
        };
        match checked {
            Ok((method, spent)) => {
                self.halves.remove(&hash);
                Ok(Proof { user, method, spent, password: Some(password) })
            }
            Err(refused) => {
                if let Some(half) = self.halves.get_mut(&hash) {
                    half.wrong += 1;
                    if half.wrong >= CODES_PER_HALF {
                        self.halves.remove(&hash);
                    }
                }
                Err(refused)
            }
        }
    }

    fn check_app_code(
        &mut self,
        user: UserId,
        code: &str,
        ctx: &Ctx,
    ) -> Result<(SignInMethod, Spent), Refused> {
        let bucket = self.codes.entry(user).or_insert_with(Bucket::full);
        if !bucket.take(CODES_AT_ONCE, CODE_INTERVAL, ctx.now) {
            return Err(Refused::RateLimited);
        }
        let totp = self.users.get(&user).and_then(|user| user.totp.as_ref());
        let totp = totp.ok_or(Refused::TookTooLong)?;
        let step = totp::verify(&totp.secret, code, ctx.unix_time(), totp.last_step);
        let step = step.ok_or(Refused::CodeWrong)?;
        self.codes.remove(&user);
        Ok((SignInMethod::PasswordAndCode, Spent::Step(step)))
    }

    /// Signs somebody in: a new session, in place of the one (`previous`) that the browser had.
    ///
    /// # Errors
    /// [`Refused::SignInFailed`] or [`Refused::CodeWrong`] if what it rests on was changed or used
    /// meanwhile; [`Refused::UserSuspended`].
    pub fn prepare_sign_in(
        &self,
        proof: &Proof,
        previous: Option<WebSessionId>,
        client: &ClientInfo,
        ctx: &Ctx,
    ) -> Result<Prepared<WebSessionCreated, PeopleChange>, Refused> {
        let user = self.users.get(&proof.user).ok_or(Refused::SignInFailed)?;
        if user.suspended {
            return Err(Refused::UserSuspended);
        }
        if proof.password.is_some() && proof.password != user.password {
            return Err(Refused::SignInFailed);
        }
        let mut after = user.clone();
        spend(&mut after, proof.spent)?;
        let mut changes = Vec::new();
        if after != *user {
            changes.push(PeopleChange::User(after));
        }
        changes.extend(self.room_for_session(user.id, previous));
        let (session, reply) = self.new_session(user.id, proof.method, client, ctx);
        changes.push(PeopleChange::Session(session));
        Ok(Prepared { changes, reply })
    }

    /// What ends for a new session of a user: the one that the browser had, and his oldest.
    pub(super) fn room_for_session(
        &self,
        user: UserId,
        previous: Option<WebSessionId>,
    ) -> Vec<PeopleChange> {
        let previous = previous.filter(|id| self.sessions.contains_key(id));
        let previous = previous.map(PeopleChange::SessionRemoved);
        let oldest = self.oldest_sessions(user).filter(|it| Some(it) != previous.as_ref());
        previous.clone().into_iter().chain(oldest).collect()
    }
}

fn spend(user: &mut UserRecord, spent: Spent) -> Result<(), Refused> {
    match spent {
        Spent::Nothing => Ok(()),
        Spent::Step(step) => match &mut user.totp {
            Some(TotpRecord { last_step, .. }) if *last_step < step => {
                *last_step = step;
                Ok(())
            }
            Some(_) | None => Err(Refused::CodeWrong),
        },
        Spent::RecoveryCode(code) => {
            if user.recovery_codes.remove(&code) {
                Ok(())
            } else {
                Err(Refused::CodeWrong)
            }
        }
    }
}

/// The hash of a recovery code of this user that was not used, however it was typed.
fn recovery_code(user: &UserRecord, code: &str) -> Option<SecretHash> {
    let plain: String = code.chars().filter(char::is_ascii_alphanumeric).collect();
    let hash = SecretHash::of(&plain.to_ascii_uppercase());
    user.recovery_codes.contains(&hash).then_some(hash)
}
