//! What changes of the people mean for people who read Activity.

use warren_proto::{AccountId, UserId};

use super::{
    ApiTokenRecord, Identity, InvitationRecord, LinkPurpose, LinkRecord, MembershipRecord, People,
    PeopleChange, TokenReach, UserRecord, WebSessionRecord,
};
use crate::activity::{Facts, Named, diff};
use crate::{Actor, By, Entry, UnixTime};

impl People {
    /// The entries that a decision's changes make, if they are committed now (in milliseconds since
    /// the Unix epoch): call it before [`People::apply`].
    ///
    /// Who signs in, or sets a password by a link, did it himself: the entries name him where
    /// `by` can't yet.
    pub fn activity(&self, changes: &[PeopleChange], by: &By, at: u64) -> Vec<Entry> {
        let view = View { people: self, changes };
        let by = &By { actor: view.actor(&by.actor), source: by.source };
        changes.iter().filter_map(|change| view.entry(change, by, at)).collect()
    }
}

/// The people, and the changes that are about to be made: some speak of users who are new.
struct View<'a> {
    people: &'a People,
    changes: &'a [PeopleChange],
}

impl View<'_> {
    /// The holder of a link is known once he has used it.
    fn actor(&self, actor: &Actor) -> Actor {
        let signed_in = self.changes.iter().find_map(|change| {
            let PeopleChange::Session(session) = change else { return None };
            Some(session.user)
        });
        match (actor, signed_in.and_then(|user| self.user(user))) {
            (Actor::Link, Some(user)) => Actor::User { id: user.id, email: user.email.clone() },
            (actor, _) => actor.clone(),
        }
    }

    fn entry(&self, change: &PeopleChange, by: &By, at: u64) -> Option<Entry> {
        let expired = by.actor == Actor::Broker;
        let (action, subject, account, before, after) = match change {
            PeopleChange::User(new) => {
                let old = self.people.users.get(&new.id);
                let named = Named::new("user", new.id, &new.email);
                (user_action(old, new), named, None, old.map(of_user), Some(of_user(new)))
            }
            PeopleChange::UserRemoved(id) => {
                let old = self.people.users.get(id)?;
                let named = Named::new("user", id, &old.email);
                ("user.removed", named, None, Some(of_user(old)), None)
            }
            PeopleChange::Membership(new) => {
                let old = self.people.memberships.get(&(new.user, new.account)).map(of_membership);
                let action = if old.is_some() { "member.changed" } else { "member.added" };
                let (named, account) = (self.named(new.user), Some(new.account));
                (action, named, account, old, Some(of_membership(new)))
            }
            PeopleChange::MembershipRemoved { user, account } => {
                let old = of_membership(self.people.memberships.get(&(*user, *account))?);
                ("member.removed", self.named(*user), Some(*account), Some(old), None)
            }
            PeopleChange::Invitation(new) => {
                let facts = Some(of_invitation(new));
                ("invitation.created", invitation(new), Some(new.account), None, facts)
            }
            PeopleChange::InvitationRemoved(id) => {
                let old = self.people.invitations.get(id).filter(|_| !expired)?;
                let accepted = self.makes_a_member_of(old.account);
                let action = if accepted { "invitation.accepted" } else { "invitation.removed" };
                let facts = Some(of_invitation(old));
                (action, invitation(old), Some(old.account), facts, None)
            }
            PeopleChange::Session(new) => {
                ("user.signed-in", self.named(new.user), None, None, Some(of_session(new)))
            }
            PeopleChange::SessionRemoved(id) => {
                let old = self.people.sessions.get(id).filter(|_| !expired)?;
                let facts = Some(of_session(old));
                ("user.session-ended", self.named(old.user), None, facts, None)
            }
            PeopleChange::Token(new) => {
                let (named, account) = (token(new), account_of(new.reach));
                ("api-token.created", named, account, None, Some(of_token(new)))
            }
            PeopleChange::TokenRemoved(id) => {
                let old = self.people.tokens.get(id).filter(|_| !expired)?;
                let (named, account) = (token(old), account_of(old.reach));
                ("api-token.removed", named, account, Some(of_token(old)), None)
            }
            PeopleChange::Link(new) => {
                ("link.created", self.link(new), None, None, Some(of_link(new)))
            }
            PeopleChange::Seen { .. }
            | PeopleChange::SessionUsed { .. }
            | PeopleChange::TokenUsed { .. }
            | PeopleChange::LinkRemoved(_) => return None,
        };
        let fields = diff(before.as_ref(), after.as_ref());
        if before.is_some() && after.is_some() && fields.is_empty() {
            return None;
        }
        Some(Entry::new(action, subject, account, by, at).with(fields))
    }

    fn makes_a_member_of(&self, account: AccountId) -> bool {
        let is_it = |it: &PeopleChange| {
            let PeopleChange::Membership(new) = it else { return false };
            new.account == account && Some(new.role) > self.people.role(new.user, account)
        };
        self.changes.iter().any(is_it)
    }

    fn user(&self, id: UserId) -> Option<&UserRecord> {
        let new = self.changes.iter().find_map(|change| {
            let PeopleChange::User(user) = change else { return None };
            (user.id == id).then_some(user)
        });
        new.or_else(|| self.people.users.get(&id))
    }

    fn named(&self, user: UserId) -> Named {
        match self.user(user) {
            Some(user) => Named::new("user", user.id, &user.email),
            None => Named::new("user", user, user),
        }
    }

    fn link(&self, link: &LinkRecord) -> Named {
        match link.purpose {
            LinkPurpose::SetUp => Named::new("link", "", "set-up link"),
            LinkPurpose::Password { user, .. } => self.named(user),
        }
    }
}

fn user_action(old: Option<&UserRecord>, new: &UserRecord) -> &'static str {
    let Some(old) = old else { return "user.created" };
    match (old.suspended, new.suspended) {
        (false, true) => return "user.suspended",
        (true, false) => return "user.resumed",
        (true, true) | (false, false) => {}
    }
    if old.password != new.password {
        return "user.password-changed";
    }
    if old.identities != new.identities {
        let is_more = new.identities.len() > old.identities.len();
        return if is_more { "user.identity-linked" } else { "user.identity-unlinked" };
    }
    match (&old.totp, &new.totp) {
        (None, Some(_)) => "user.second-factor-added",
        (Some(_), None) => "user.second-factor-removed",
        (Some(_), Some(_)) | (None, None) => "user.changed",
    }
}

fn of_user(user: &UserRecord) -> Facts {
    let identity = |it: &Identity| format!("{} at {}", it.subject, it.issuer);
    let password = user.password.as_ref().map_or("", |password| &password.0);
    let totp = user.totp.as_ref().map_or(&[][..], |totp| &totp.secret[..]);
    let codes: Vec<u8> = user.recovery_codes.iter().flat_map(|hash| hash.0).collect();
    Facts::default()
        .open("email", &user.email)
        .open("name", &user.name)
        .open("operator", user.operator)
        .open("suspended", user.suspended)
        .list("identities", user.identities.iter().map(identity))
        .open("has_password", user.password.is_some())
        .open("has_second_factor", user.totp.is_some())
        .open("recovery_codes_left", user.recovery_codes.len())
        .secret("password", password)
        .secret("second_factor", totp)
        .secret("recovery_codes", codes)
}

fn of_membership(membership: &MembershipRecord) -> Facts {
    Facts::default().open("role", membership.role)
}

fn invitation(record: &InvitationRecord) -> Named {
    let name = record.email.as_ref().map_or("anybody with the link", |email| email.as_str());
    Named::new("invitation", record.id, name)
}

fn of_invitation(record: &InvitationRecord) -> Facts {
    Facts::default()
        .open("role", record.role)
        .maybe("email", record.email.as_ref())
        .open("expires", seconds(record.expires))
}

fn of_session(session: &WebSessionRecord) -> Facts {
    Facts::default()
        .open("session", session.id)
        .open("method", session.method.as_str())
        .open("address", session.address)
        .open("user_agent", &session.user_agent)
}

fn token(record: &ApiTokenRecord) -> Named {
    Named::new("api-token", record.id, &record.name)
}

fn of_token(record: &ApiTokenRecord) -> Facts {
    Facts::default().list("scopes", &record.scopes).maybe("expires", record.expires.map(seconds))
}

fn of_link(record: &LinkRecord) -> Facts {
    let purpose = match record.purpose {
        LinkPurpose::SetUp => "set-up",
        LinkPurpose::Password { second_factor: false, .. } => "password",
        LinkPurpose::Password { second_factor: true, .. } => "password, without second factor",
    };
    Facts::default().open("purpose", purpose).open("expires", seconds(record.expires))
}

fn account_of(reach: TokenReach) -> Option<AccountId> {
    match reach {
        TokenReach::Account(account) => Some(account),
        TokenReach::Broker => None,
    }
}

fn seconds(at: UnixTime) -> u64 {
    at.0
}
