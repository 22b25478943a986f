//! Whatever people do, in whatever order.

use std::collections::BTreeSet;

use proptest::prelude::*;
use warren_coord::{
    Asker, NewApiToken, NewInvitation, NewUser, PasswordHash, Role, Scope, SignInStep, TokenReach,
    UserEdit, WebSessionCreated,
};
use warren_proto::{AccountId, UserId};

use crate::people::{HOME, OFFICE, Village, client, new_user};

#[derive(Debug, Clone)]
enum Step {
    Create { n: u8, operator: bool },
    Suspend { user: usize, suspended: bool },
    Operator { user: usize, operator: bool },
    Remove { user: usize },
    Role { user: usize, office: bool, role: Option<Role> },
    Invite { office: bool, role: Role },
    Accept { user: usize },
    AcceptAsNew { n: u8 },
    SignIn { n: u8 },
    EndSessions { user: usize },
    Password { user: usize },
    Link { user: usize },
    UseLink,
    Token { user: usize, office: bool },
    RemoveAccount { office: bool },
    Wait { seconds: u64 },
    Housekeeping,
    Restart,
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Member), Just(Role::Admin), Just(Role::Owner)]
}

fn step() -> impl Strategy<Value = Step> {
    let user = 0..20usize;
    prop_oneof![
        5 => (0..6u8, any::<bool>()).prop_map(|(n, operator)| Step::Create { n, operator }),
        3 => (user.clone(), any::<bool>())
            .prop_map(|(user, suspended)| Step::Suspend { user, suspended }),
        3 => (user.clone(), any::<bool>())
            .prop_map(|(user, operator)| Step::Operator { user, operator }),
        3 => user.clone().prop_map(|user| Step::Remove { user }),
        8 => (user.clone(), any::<bool>(), proptest::option::of(role()))
            .prop_map(|(user, office, role)| Step::Role { user, office, role }),
        2 => (any::<bool>(), role()).prop_map(|(office, role)| Step::Invite { office, role }),
        2 => user.clone().prop_map(|user| Step::Accept { user }),
        2 => (0..6u8).prop_map(|n| Step::AcceptAsNew { n }),
        6 => (0..6u8).prop_map(|n| Step::SignIn { n }),
        1 => user.clone().prop_map(|user| Step::EndSessions { user }),
        1 => user.clone().prop_map(|user| Step::Password { user }),
        2 => user.clone().prop_map(|user| Step::Link { user }),
        2 => Just(Step::UseLink),
        4 => (user, any::<bool>()).prop_map(|(user, office)| Step::Token { user, office }),
        1 => any::<bool>().prop_map(|office| Step::RemoveAccount { office }),
        4 => prop_oneof![Just(10u64), Just(3_600), Just(90_000), Just(604_800)]
            .prop_map(|seconds| Step::Wait { seconds }),
        2 => Just(Step::Housekeeping),
        1 => Just(Step::Restart),
    ]
}

struct Model {
    village: Village,
    sessions: Vec<WebSessionCreated>,
    tokens: Vec<(UserId, AccountId, String)>,
    invitations: Vec<String>,
    links: Vec<String>,
    /// Accounts that had an owner, and whether the broker had an operator.
    owned: BTreeSet<AccountId>,
    operated: bool,
}

fn account(office: bool) -> AccountId {
    if office { OFFICE } else { HOME }
}

fn address(n: u8) -> String {
    format!("user-{n}@example.org")
}

impl Model {
    fn new() -> Self {
        Self {
            village: Village::new(),
            sessions: Vec::new(),
            tokens: Vec::new(),
            invitations: Vec::new(),
            links: Vec::new(),
            owned: BTreeSet::new(),
            operated: false,
        }
    }

    fn user(&self, n: usize) -> Option<UserId> {
        let users = &self.village.stored.users;
        (!users.is_empty()).then(|| users[n % users.len()].id)
    }

    /// `None`: refused, or nobody to do it.
    fn run(&mut self, step: &Step) -> Option<()> {
        let ctx = self.village.ctx();
        match *step {
            Step::Create { n, operator } => {
                let new = NewUser { operator, ..new_user(&address(n)) };
                let prepared = self.village.people.prepare_user(new, &ctx).ok()?;
                self.village.commit(prepared);
            }
            Step::Suspend { user, suspended } => {
                let edit = UserEdit { suspended: Some(suspended), ..UserEdit::default() };
                self.village.edit(self.user(user)?, edit).ok()?;
            }
            Step::Operator { user, operator } => {
                let edit = UserEdit { operator: Some(operator), ..UserEdit::default() };
                self.village.edit(self.user(user)?, edit).ok()?;
            }
            Step::Remove { user } => {
                let prepared = self.village.people.prepare_remove_user(self.user(user)?).ok()?;
                self.village.commit(prepared);
            }
            Step::Role { user, office, role } => {
                self.village.set_role(self.user(user)?, account(office), role).ok()?;
            }
            Step::Invite { office, role } => {
                let new = NewInvitation {
                    account: account(office),
                    role,
                    email: None,
                    expires_in: Some(80_000),
                };
                let prepared =
                    self.village.people.prepare_invitation(&Asker::Operator, new, &ctx).ok()?;
                self.invitations.push(self.village.commit(prepared).secret);
            }
            Step::Accept { user } => {
                let (secret, user) = (self.invitations.last()?, self.user(user)?);
                let prepared = self.village.people.prepare_accept(secret, user, &ctx).ok()?;
                self.village.commit(prepared);
            }
            Step::AcceptAsNew { n } => {
                let secret = self.invitations.first()?;
                let new = new_user(&address(n));
                let people = &self.village.people;
                let prepared = people.prepare_accept_as_new(secret, new, &client(), &ctx).ok()?;
                let session = self.village.commit(prepared);
                self.sessions.push(session);
            }
            Step::SignIn { n } => {
                let SignInStep::Done(proof) = self.village.password_step(&address(n)).ok()? else {
                    panic!("nobody has a second factor");
                };
                let session = self.village.finish(&proof).ok()?;
                self.sessions.push(session);
            }
            Step::EndSessions { user } => {
                let prepared = self.village.people.prepare_end_sessions(self.user(user)?, None);
                self.village.commit(prepared);
            }
            Step::Password { user } => {
                let hash = PasswordHash("$argon2id$other".to_owned());
                let user = self.user(user)?;
                let prepared = self.village.people.prepare_password(user, hash, None).ok()?;
                self.village.commit(prepared);
            }
            Step::Link { user } => {
                let user = self.user(user)?;
                let prepared = self.village.people.prepare_password_link(user, true, &ctx).ok()?;
                self.links.push(self.village.commit(prepared).secret);
            }
            Step::UseLink => {
                let hash = PasswordHash("$argon2id$reset".to_owned());
                let people = &self.village.people;
                let prepared =
                    people.prepare_password_by_link(self.links.last()?, hash, &ctx).ok()?;
                self.village.commit(prepared);
            }
            Step::Token { user, office } => {
                let (user, account) = (self.user(user)?, account(office));
                let new = NewApiToken {
                    name: "script".to_owned(),
                    reach: TokenReach::Account(account),
                    scopes: [Scope::AccountRead].into(),
                    expires_in: Some(700_000),
                    creator: Some(user),
                };
                let prepared = self.village.people.prepare_token(new, &ctx).ok()?;
                let secret = self.village.commit(prepared).secret;
                self.tokens.push((user, account, secret));
            }
            Step::RemoveAccount { office } => {
                let prepared = self.village.people.prepare_account_removed(account(office));
                self.village.commit(prepared);
                self.owned.remove(&account(office));
            }
            Step::Wait { seconds } => self.village.wait(seconds),
            Step::Housekeeping => {
                let prepared = self.village.people.prepare_housekeeping(&ctx);
                self.village.commit(prepared);
                let again = self.village.people.prepare_housekeeping(&ctx);
                assert!(again.changes.is_empty(), "once is enough: {:?}", again.changes);
            }
            Step::Restart => self.village.restart(),
        }
        Some(())
    }

    fn check(&mut self) {
        let now = self.village.time();
        let stored = self.village.stored.clone();
        let user = |id: UserId| stored.users.iter().find(|user| user.id == id);
        let active = |id: UserId| user(id).is_some_and(|user| !user.suspended);

        let emails: BTreeSet<_> = stored.users.iter().map(|user| &user.email).collect();
        assert_eq!(emails.len(), stored.users.len());
        for membership in &stored.memberships {
            assert!(user(membership.user).is_some(), "nobody's membership");
        }
        for session in &stored.sessions {
            assert!(active(session.user), "a session of nobody, or of one who is suspended");
        }
        for token in &stored.tokens {
            let creator = token.creator.unwrap();
            let TokenReach::Account(account) = token.reach else { panic!("none of the broker") };
            let role = self.village.people.role(creator, account);
            let operator = user(creator).is_some_and(|user| user.operator);
            assert!(active(creator), "a token of nobody, or of one who is suspended");
            let worth = self.village.people.standing(creator, account).is_some();
            assert_eq!(worth, role.is_some() || operator);
        }
        let owners = |account| {
            stored.memberships.iter().any(|it| it.account == account && it.role == Role::Owner)
        };
        for account in [HOME, OFFICE] {
            if owners(account) {
                self.owned.insert(account);
            }
            assert_eq!(
                owners(account),
                self.owned.contains(&account),
                "owned once, owned for ever"
            );
        }
        let operated = stored.users.iter().any(|user| user.operator && !user.suspended);
        self.operated |= operated;
        assert_eq!(operated, self.operated, "operated once, operated for ever");
        for session in &self.sessions.clone() {
            let known = stored.sessions.iter().any(|it| it.id == session.id);
            assert!(known || !self.village.is_signed_in(session));
        }
        for (creator, account, secret) in &self.tokens {
            if self.village.people.token(secret, now).is_some() {
                assert!(self.village.people.standing(*creator, *account).is_some());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn owners_and_operators_stay_and_nothing_outlives_its_user(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut model = Model::new();
        for step in &steps {
            model.run(step);
            model.check();
        }
    }
}
