//! Browsers' sessions.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use warren_proto::{UserId, WebSessionId};

use super::index::Index;
use super::{PasswordHash, People, PeopleChange, SignInMethod, UserRecord, WebSessionRecord};
use crate::account::short;
use crate::secret::secret_text;
use crate::{Ctx, Prepared, Refused, SecretHash, UnixTime};

/// How long a session lasts, used or not: 30 days, in seconds.
pub const SESSION_LIFETIME: u64 = 30 * 24 * 60 * 60;

/// How long a session lasts that isn't used: 7 days, in seconds.
pub const SESSION_IDLE: u64 = 7 * 24 * 60 * 60;

/// More sessions of one user end his oldest.
const MAX_PER_USER: usize = 50;
const MAX_USER_AGENT: usize = 200;

/// Who asks, as far as it can be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientInfo {
    /// From where.
    pub address: IpAddr,
    /// The browser, as it calls itself.
    pub user_agent: String,
}

/// A new session. The secret exists nowhere else.
#[derive(Clone, PartialEq, Eq)]
pub struct WebSessionCreated {
    /// Its id.
    pub id: WebSessionId,
    /// Whose it is.
    pub user: UserId,
    /// The secret, for a cookie. It is new with each sign-in: what a browser had before is worth
    /// nothing (no session fixation).
    pub secret: String,
    /// When it ends, used or not.
    pub expires: UnixTime,
}

impl fmt::Debug for WebSessionCreated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebSessionCreated({})", self.id)
    }
}

/// Who is signed in.
#[derive(Debug, Clone, Copy)]
pub struct SignedIn<'a> {
    /// The session.
    pub session: &'a WebSessionRecord,
    /// The user.
    pub user: &'a UserRecord,
}

impl People {
    /// Who is signed in with this secret; notes that the session was used. Nobody, when it has
    /// ended or its user is suspended.
    pub fn session(&mut self, secret: &str, now: UnixTime) -> Option<SignedIn<'_>> {
        let id = self.idle_session(secret, now)?.session.id;
        self.sessions_used.insert(id, now);
        self.idle_session(secret, now)
    }

    /// The same, where nobody has done anything: an open page that looks for news keeps no session
    /// alive.
    pub fn idle_session(&self, secret: &str, now: UnixTime) -> Option<SignedIn<'_>> {
        let id = self.index.session_by_hash.get(&SecretHash::of(secret))?;
        let session = self.sessions.get(id).filter(|session| self.is_alive(session, now))?;
        let user = self.users.get(&session.user).filter(|user| !user.suspended)?;
        Some(SignedIn { session, user })
    }

    /// A user's sessions that have not ended, by id; with when they were used last.
    pub fn live_sessions(
        &self,
        user: UserId,
        now: UnixTime,
    ) -> impl Iterator<Item = WebSessionRecord> {
        self.sessions_of(user).filter(move |it| self.is_alive(it, now)).map(|session| {
            WebSessionRecord { last_used: self.last_used(session), ..session.clone() }
        })
    }

    /// Ends one of a user's sessions.
    ///
    /// # Errors
    /// [`Refused::NotFound`], also for another user's.
    pub fn prepare_end_session(
        &self,
        user: UserId,
        session: WebSessionId,
    ) -> Result<Prepared<(), PeopleChange>, Refused> {
        match self.sessions.get(&session) {
            Some(found) if found.user == user => {
                Ok(Prepared { changes: vec![PeopleChange::SessionRemoved(session)], reply: () })
            }
            Some(_) | None => Err(Refused::NotFound("session")),
        }
    }

    /// Ends all of a user's sessions but `keep`.
    pub fn prepare_end_sessions(
        &self,
        user: UserId,
        keep: Option<WebSessionId>,
    ) -> Prepared<(), PeopleChange> {
        Prepared { changes: self.end_of_sessions(user, keep).collect(), reply: () }
    }

    /// Sets a user's password, the present one of which the shell has checked where there is one.
    /// All his sessions but `keep` end.
    ///
    /// # Errors
    /// [`Refused::NotFound`].
    pub fn prepare_password(
        &self,
        user: UserId,
        password: PasswordHash,
        keep: Option<WebSessionId>,
    ) -> Result<Prepared<(), PeopleChange>, Refused> {
        let mut record = self.known(user)?.clone();
        record.password = Some(password);
        let mut changes = vec![PeopleChange::User(record)];
        changes.extend(self.end_of_sessions(user, keep));
        changes.extend(self.links_of(user).map(|link| PeopleChange::LinkRemoved(link.hash)));
        Ok(Prepared { changes, reply: () })
    }

    /// Writes when sessions and tokens were used last, and sweeps away what has expired. Commit
    /// and apply it each [`crate::HOUSEKEEPING_INTERVAL`], and before the process ends.
    pub fn prepare_housekeeping(&self, ctx: &Ctx) -> Prepared<(), PeopleChange> {
        let now = ctx.unix_time();
        let mut changes = Vec::new();
        let mut seen: BTreeMap<UserId, UnixTime> = BTreeMap::new();
        for session in self.sessions.values() {
            let at = self.last_used(session);
            if !self.is_alive(session, now) {
                changes.push(PeopleChange::SessionRemoved(session.id));
            } else if at > session.last_used {
                changes.push(PeopleChange::SessionUsed { session: session.id, at });
            }
            let newest = seen.entry(session.user).or_insert(at);
            *newest = at.max(*newest);
        }
        for (user, at) in seen {
            if self.users.get(&user).is_some_and(|user| user.last_seen < Some(at)) {
                changes.push(PeopleChange::Seen { user, at });
            }
        }
        for (token, at) in &self.tokens_used {
            if self.tokens.get(token).is_some_and(|token| token.last_used < Some(*at)) {
                changes.push(PeopleChange::TokenUsed { token: *token, at: *at });
            }
        }
        let invitations = self.invitations.values().filter(|it| it.expires <= now);
        changes.extend(invitations.map(|it| PeopleChange::InvitationRemoved(it.id)));
        let links = self.links.values().filter(|it| it.expires <= now);
        changes.extend(links.map(|it| PeopleChange::LinkRemoved(it.hash)));
        let tokens = self.tokens.values().filter(|it| it.expires.is_some_and(|end| end <= now));
        changes.extend(tokens.map(|it| PeopleChange::TokenRemoved(it.id)));
        Prepared { changes, reply: () }
    }

    pub(super) fn new_session(
        &self,
        user: UserId,
        method: SignInMethod,
        client: &ClientInfo,
        ctx: &Ctx,
    ) -> (WebSessionRecord, WebSessionCreated) {
        let now = ctx.unix_time();
        let taken = |id| self.sessions.contains_key(&WebSessionId(id));
        let id = WebSessionId(ctx.fresh_id("web session id", taken));
        let secret = secret_text(&ctx.bytes("web session secret"));
        let expires = UnixTime(now.0 + SESSION_LIFETIME);
        let record = WebSessionRecord {
            id,
            hash: SecretHash::of(&secret),
            user,
            method,
            user_agent: short(&client.user_agent, MAX_USER_AGENT),
            address: client.address,
            created: now,
            last_used: now,
            expires,
        };
        (record, WebSessionCreated { id, user, secret, expires })
    }

    /// Makes room for one more session of a user.
    pub(super) fn oldest_sessions(&self, user: UserId) -> impl Iterator<Item = PeopleChange> {
        let mut all: Vec<_> = self.sessions_of(user).map(|it| (it.created, it.id)).collect();
        all.sort_unstable();
        let surplus = (all.len() + 1).saturating_sub(MAX_PER_USER);
        all.into_iter().take(surplus).map(|(_, id)| PeopleChange::SessionRemoved(id))
    }

    pub(super) fn sessions_of(&self, user: UserId) -> impl Iterator<Item = &WebSessionRecord> {
        let ids = sessions_range(&self.index, user);
        ids.filter_map(|id| self.sessions.get(&id))
    }

    fn end_of_sessions(
        &self,
        user: UserId,
        keep: Option<WebSessionId>,
    ) -> impl Iterator<Item = PeopleChange> {
        let ended = self.sessions_of(user).filter(move |session| Some(session.id) != keep);
        ended.map(|session| PeopleChange::SessionRemoved(session.id))
    }

    fn last_used(&self, session: &WebSessionRecord) -> UnixTime {
        self.sessions_used
            .get(&session.id)
            .map_or(session.last_used, |at| session.last_used.max(*at))
    }

    fn is_alive(&self, session: &WebSessionRecord, now: UnixTime) -> bool {
        session.expires > now && self.last_used(session).0 + SESSION_IDLE > now.0
    }
}

fn sessions_range(index: &Index, user: UserId) -> impl Iterator<Item = WebSessionId> {
    let all = (user, WebSessionId(0))..=(user, WebSessionId(u64::MAX));
    index.sessions_by_user.range(all).map(|(_, id)| *id)
}
