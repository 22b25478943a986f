//! Single sign-on: whom a provider's word signs in, and whom it must not.

use std::time::Duration;

use warren_coord::{
    Actor, Asker, By, Email, Identity, NewInvitation, NewUser, Refused, Role, SecretHash,
    SignInMethod, SsoPurpose, SsoVisits, UserEdit, Vouched, WebSessionCreated,
};
use warren_proto::{AccountId, UserId, WebSessionId};

use crate::people::{HOME, OFFICE, Village, client, mail};

fn vouched(subject: &str, email: Option<&str>) -> Vouched {
    let issuer = "https://id.example.org".to_owned();
    Vouched {
        identity: Identity { issuer, subject: subject.to_owned() },
        email: email.map(mail),
        name: "Somebody".to_owned(),
    }
}

impl Village {
    fn arrive(
        &mut self,
        vouched: &Vouched,
        invitation: Option<&str>,
        newcomers: Option<AccountId>,
    ) -> Result<WebSessionCreated, Refused> {
        let ctx = self.ctx();
        let prepared = self.people.prepare_single_sign_on(
            vouched,
            invitation,
            newcomers,
            None,
            &client(),
            &ctx,
        )?;
        Ok(self.commit(prepared))
    }

    fn without_password(&mut self, email: &str) -> UserId {
        let ctx = self.ctx();
        let (email, name) = (mail(email), String::new());
        let new = NewUser { email, name, password: None, operator: false };
        let prepared = self.people.prepare_user(new, &ctx).unwrap();
        self.commit(prepared)
    }

    fn invite(&mut self, account: AccountId, role: Role, email: Option<Email>) -> String {
        let ctx = self.ctx();
        let new = NewInvitation { account, role, email, expires_in: None };
        let prepared = self.people.prepare_invitation(&Asker::Operator, new, &ctx).unwrap();
        self.commit(prepared).secret
    }
}

#[test]
fn the_subject_decides_and_not_the_address() {
    let mut village = Village::new();
    let bob = village.without_password("bob@example.org");
    let came = village.arrive(&vouched("1", Some("bob@example.org")), None, None).unwrap();
    assert_eq!(came.user, bob, "a verified address, and nobody can have waited for him");
    // His address has changed at the provider; later there is none, and then somebody else's.
    for email in [Some("robert@example.org"), None, Some("ann@example.org")] {
        assert_eq!(village.arrive(&vouched("1", email), None, None).unwrap().user, bob);
    }
    assert_eq!(village.people.user(bob).unwrap().email, mail("bob@example.org"));
    // The address was given to somebody else there.
    let other = village.arrive(&vouched("2", Some("bob@example.org")), None, Some(HOME));
    assert_eq!(other, Err(Refused::IdentityNotLinked));
    let method = village.people.snapshot().sessions.iter().map(|it| it.method).next();
    assert_eq!(method, Some(SignInMethod::Oidc));
    // The same subject at another provider is somebody else.
    let mut elsewhere = vouched("1", None);
    elsewhere.identity.issuer = "https://id.evil.example".to_owned();
    assert_eq!(village.arrive(&elsewhere, None, Some(HOME)), Err(Refused::IdentityUnknown));
}

#[test]
fn who_has_a_password_links_the_identity_himself() {
    let mut village = Village::new();
    let bob = village.user("bob@example.org", false);
    let his = vouched("1", Some("bob@example.org"));
    assert_eq!(village.arrive(&his, None, Some(HOME)), Err(Refused::IdentityNotLinked));
    let prepared = village.people.prepare_link_identity(bob, his.identity.clone()).unwrap();
    let by = By { actor: Actor::User { id: bob, email: mail("bob@example.org") }, source: None };
    let told = village.people.activity(&prepared.changes, &by, 0);
    assert_eq!(told[0].action, "user.identity-linked");
    village.commit(prepared);
    assert_eq!(village.arrive(&his, None, None).unwrap().user, bob);

    let eve = village.user("eve@example.org", false);
    let both = village.people.prepare_link_identity(eve, his.identity.clone()).unwrap_err();
    assert!(matches!(both, Refused::Conflict(_)), "{both}");
    let prepared = village.people.prepare_unlink_identity(bob, &his.identity).unwrap();
    let told = village.people.activity(&prepared.changes, &by, 0);
    assert_eq!(told[0].action, "user.identity-unlinked");
    village.commit(prepared);
    assert_eq!(village.arrive(&his, None, None), Err(Refused::IdentityNotLinked));

    let ann = village.without_password("ann@example.org");
    let hers = vouched("2", Some("ann@example.org"));
    village.arrive(&hers, None, None).unwrap();
    let out = village.people.prepare_unlink_identity(ann, &hers.identity).unwrap_err();
    assert!(matches!(out, Refused::Invalid(_)), "she could not sign in again");
}

#[test]
fn nobody_becomes_a_user_without_a_verified_address_and_a_reason() {
    let mut village = Village::new();
    let eve = vouched("1", Some("eve@example.org"));
    assert_eq!(village.arrive(&eve, None, None), Err(Refused::IdentityUnknown));
    let unverified = vouched("1", None);
    assert_eq!(village.arrive(&unverified, None, Some(HOME)), Err(Refused::IdentityUnknown));
    let link = village.invite(HOME, Role::Member, None);
    let refused = village.arrive(&unverified, Some(&link), None);
    assert_eq!(refused, Err(Refused::IdentityUnknown), "not even by an open invitation");
    let came = village.arrive(&eve, None, Some(HOME)).unwrap();
    assert_eq!(village.people.role(came.user, HOME), Some(Role::Member));
    let user = village.people.user(came.user).unwrap();
    assert!(user.password.is_none() && !user.operator && user.name == "Somebody");
    village.people.handle_user_limit(HOME, Some(1));
    let bob = vouched("2", Some("bob@example.org"));
    assert_eq!(village.arrive(&bob, None, Some(HOME)), Err(Refused::TooManyPeople));
}

#[test]
fn an_invitation_is_accepted_by_whom_it_is_meant_for() {
    let mut village = Village::new();
    let meant = village.invite(HOME, Role::Admin, Some(mail("bob@example.org")));
    village.invite(HOME, Role::Member, Some(mail("bob@example.org")));
    village.invite(OFFICE, Role::Owner, Some(mail("bob@example.org")));
    let eve = vouched("1", Some("eve@example.org"));
    assert_eq!(village.arrive(&eve, Some(&meant), None), Err(Refused::LinkInvalid));
    assert_eq!(village.arrive(&eve, Some("nonsense"), None), Err(Refused::LinkInvalid));
    // He comes without any link: the address is his, so are the invitations.
    let bob = vouched("2", Some("bob@example.org"));
    let ctx = village.ctx();
    let prepared =
        village.people.prepare_single_sign_on(&bob, None, Some(HOME), None, &client(), &ctx);
    let prepared = prepared.unwrap();
    let by = By { actor: Actor::Link, source: None };
    let told = village.people.activity(&prepared.changes, &by, 0);
    let actions: Vec<&str> = told.iter().map(|entry| entry.action.as_str()).collect();
    let accepted = "invitation.accepted";
    let expected = [
        accepted,
        accepted,
        accepted,
        "user.created",
        "member.added",
        "member.added",
        "user.signed-in",
    ];
    assert_eq!(actions, expected);
    assert!(told.iter().all(|entry| entry.actor.name == "bob@example.org"));
    let came = village.commit(prepared);
    let roles = [HOME, OFFICE].map(|account| village.people.role(came.user, account));
    assert_eq!(roles, [Some(Role::Admin), Some(Role::Owner)]);
    assert!(village.stored.invitations.is_empty());
    // Who is known accepts what he holds.
    let eve_user = village.without_password("eve@example.org");
    let open = village.invite(OFFICE, Role::Member, None);
    assert_eq!(village.arrive(&eve, Some(&open), None).unwrap().user, eve_user);
    assert_eq!(village.people.role(eve_user, OFFICE), Some(Role::Member));
    assert_eq!(village.arrive(&eve, Some(&open), None), Err(Refused::LinkInvalid), "used");
}

#[test]
fn who_is_suspended_stays_out() {
    let mut village = Village::new();
    let bob = village.without_password("bob@example.org");
    let his = vouched("1", Some("bob@example.org"));
    village.arrive(&his, None, None).unwrap();
    village.edit(bob, UserEdit { suspended: Some(true), ..UserEdit::default() }).unwrap();
    assert_eq!(village.arrive(&his, None, Some(HOME)), Err(Refused::UserSuspended));
    let other = vouched("2", Some("bob@example.org"));
    assert_eq!(village.arrive(&other, None, Some(HOME)), Err(Refused::UserSuspended));
    let linked = village.people.prepare_link_identity(bob, other.identity);
    assert_eq!(linked.unwrap_err(), Refused::UserSuspended);
}

#[test]
fn a_visit_comes_back_once_in_time_to_the_browser_that_began_it() {
    let mut village = Village::new();
    let (mine, other) = (SecretHash::of("mine"), SecretHash::of("other"));
    let purpose = || SsoPurpose::Link { user: UserId(1), session: WebSessionId(2) };
    let mut visits = SsoVisits::default();
    let ctx = village.ctx();
    let begun = visits.begin(mine, purpose(), &ctx);
    let again = visits.begin(mine, purpose(), &village.ctx());
    assert!(begun.state != again.state && begun.nonce != again.nonce);
    assert!(begun.verifier != again.verifier && begun.verifier.len() == 43, "RFC 7636");
    let late = Err(Refused::TookTooLong);
    assert_eq!(visits.finish(other, &begun.state, ctx.now), late, "login CSRF");
    assert_eq!(visits.finish(mine, "nonsense", ctx.now), late);
    let back = visits.finish(mine, &begun.state, ctx.now).unwrap();
    assert_eq!((back.nonce, back.verifier), (begun.nonce.clone(), begun.verifier.clone()));
    assert_eq!(visits.finish(mine, &begun.state, ctx.now), late, "replayed");
    let tomorrow = ctx.now + Duration::from_secs(86_400);
    assert_eq!(visits.finish(mine, &again.state, tomorrow), late);
    assert!(!format!("{begun:?}").contains(&begun.state));
}

#[test]
fn visits_that_never_come_back_are_forgotten() {
    let mut village = Village::new();
    let mut visits = SsoVisits::default();
    let purpose = || SsoPurpose::SignIn { next: String::new(), invitation: None };
    let browser = SecretHash::of("x");
    let first = visits.begin(browser, purpose(), &village.ctx());
    let mut last = first.clone();
    for _ in 0..10_000 {
        last = visits.begin(browser, purpose(), &village.ctx());
    }
    let now = village.now;
    assert!(visits.finish(browser, &first.state, now).is_err(), "the oldest makes room");
    assert!(visits.finish(browser, &last.state, now).is_ok());
    village.wait(15 * 60);
    visits.begin(browser, purpose(), &village.ctx());
    assert!(format!("{visits:?}").matches("Visit {").count() == 1, "the rest is gone");
}
