//! The people: each rule, through the public API.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use warren_coord::{
    Asker, ClientInfo, Ctx, Email, LeaseEpoch, LinkPurpose, NewApiToken, NewInvitation, NewUser,
    PasswordHash, People, PeopleChange, PeopleSnapshot, Prepared, Proof, Refused, Right, Role,
    SESSION_IDLE, SESSION_LIFETIME, Scope, SignInMethod, SignInStep, Standing, TokenReach,
    UnixTime, UserEdit, WebSessionCreated,
};
use warren_proto::{AccountId, UserId};

pub(crate) const HOME: AccountId = AccountId(1);
pub(crate) const OFFICE: AccountId = AccountId(2);

/// The people with a store that is a variable.
pub(crate) struct Village {
    pub(crate) people: People,
    pub(crate) stored: PeopleSnapshot,
    pub(crate) now: Instant,
    pub(crate) unix: Duration,
    dice: u64,
}

impl Village {
    #[expect(clippy::disallowed_methods, reason = "virtual time begins at some instant")]
    pub(crate) fn new() -> Self {
        Self {
            people: People::new(PeopleSnapshot::default(), LeaseEpoch(1)),
            stored: PeopleSnapshot::default(),
            now: Instant::now(),
            unix: Duration::from_secs(1_800_000_000),
            dice: 0,
        }
    }

    pub(crate) fn ctx(&mut self) -> Ctx {
        self.dice += 1;
        let mut entropy = [9; 32];
        entropy[..8].copy_from_slice(&self.dice.to_be_bytes());
        Ctx { now: self.now, unix: self.unix, entropy }
    }

    pub(crate) fn time(&self) -> UnixTime {
        UnixTime(self.unix.as_secs())
    }

    pub(crate) fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.unix += Duration::from_secs(seconds);
    }

    pub(crate) fn restart(&mut self) {
        self.people = People::new(self.stored.clone(), LeaseEpoch(self.people.epoch().0 + 1));
        assert_eq!(self.people.snapshot(), self.stored);
    }

    pub(crate) fn commit<R>(&mut self, prepared: Prepared<R, PeopleChange>) -> R {
        self.stored.apply(&prepared.changes);
        let reply = self.people.apply(prepared);
        assert_eq!(self.people.snapshot(), self.stored, "memory and store are one");
        reply
    }

    pub(crate) fn user(&mut self, email: &str, operator: bool) -> UserId {
        let new = new_user(email);
        let ctx = self.ctx();
        let prepared = self.people.prepare_user(NewUser { operator, ..new }, &ctx).unwrap();
        self.commit(prepared)
    }

    pub(crate) fn set_role(
        &mut self,
        user: UserId,
        account: AccountId,
        role: Option<Role>,
    ) -> Result<(), Refused> {
        let ctx = self.ctx();
        let prepared = self.people.prepare_role(&Asker::Operator, user, account, role, &ctx)?;
        self.commit(prepared);
        Ok(())
    }

    pub(crate) fn edit(&mut self, user: UserId, edit: UserEdit) -> Result<(), Refused> {
        let prepared = self.people.prepare_edit_user(user, edit)?;
        self.commit(prepared);
        Ok(())
    }

    pub(crate) fn password_step(&mut self, email: &str) -> Result<SignInStep, Refused> {
        let (user, hash) = self.people.password_of(&mail(email)).ok_or(Refused::SignInFailed)?;
        let ctx = self.ctx();
        self.people.handle_password(user, &hash, &ctx)
    }

    pub(crate) fn finish(&mut self, proof: &Proof) -> Result<WebSessionCreated, Refused> {
        let ctx = self.ctx();
        let prepared = self.people.prepare_sign_in(proof, None, &client(), &ctx)?;
        Ok(self.commit(prepared))
    }

    pub(crate) fn sign_in(&mut self, email: &str) -> Result<WebSessionCreated, Refused> {
        match self.password_step(email)? {
            SignInStep::Done(proof) => self.finish(&proof),
            SignInStep::SecondFactor { .. } => panic!("{email} has a second factor"),
        }
    }

    pub(crate) fn is_signed_in(&mut self, session: &WebSessionCreated) -> bool {
        let now = self.time();
        self.people.session(&session.secret, now).is_some()
    }

    fn token(&mut self, creator: Option<UserId>, reach: TokenReach, scopes: &[Scope]) -> String {
        let ctx = self.ctx();
        let new = NewApiToken {
            name: "script".to_owned(),
            reach,
            scopes: scopes.iter().copied().collect(),
            expires_in: None,
            creator,
        };
        let prepared = self.people.prepare_token(new, &ctx).unwrap();
        self.commit(prepared).secret
    }

    /// Gives a user a second factor; returns its secret in base32 and the recovery codes.
    fn enrol(&mut self, user: UserId) -> (String, Vec<String>) {
        let ctx = self.ctx();
        let secret = self.people.begin_totp(user, &ctx).unwrap().secret();
        let code = code(&secret, self.time());
        let ctx = self.ctx();
        let prepared = self.people.prepare_totp(user, &code, &ctx).unwrap();
        (secret, self.commit(prepared))
    }

    fn code_step(&mut self, half: &str, code: &str) -> Result<Proof, Refused> {
        let ctx = self.ctx();
        self.people.handle_code(half, code, &ctx)
    }

    fn half(&mut self, email: &str) -> String {
        match self.password_step(email).unwrap() {
            SignInStep::SecondFactor { secret } => secret,
            SignInStep::Done(_) => panic!("{email} has no second factor"),
        }
    }
}

pub(crate) fn mail(text: &str) -> Email {
    text.parse().unwrap()
}

pub(crate) fn new_user(email: &str) -> NewUser {
    let password = Some(PasswordHash(format!("$argon2id${email}")));
    NewUser { email: mail(email), name: String::new(), password, operator: false }
}

pub(crate) fn client() -> ClientInfo {
    let address: IpAddr = [198, 51, 100, 7].into();
    ClientInfo { address, user_agent: "Mozilla/5.0 \u{1b}[31m".to_owned() }
}

/// What an authenticator app shows: RFC 6238 by other means than the core's.
fn code(base32: &str, now: UnixTime) -> String {
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let bits: Vec<bool> = base32
        .chars()
        .map(|c| alphabet.find(c).unwrap())
        .flat_map(|value| (0..5).rev().map(move |bit| value >> bit & 1 == 1))
        .collect();
    let secret: Vec<u8> = bits
        .chunks_exact(8)
        .map(|byte| byte.iter().fold(0, |value, bit| value << 1 | u8::from(*bit)))
        .collect();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &secret);
    let tag = ring::hmac::sign(&key, &(now.0 / 30).to_be_bytes());
    let offset = usize::from(tag.as_ref()[19] & 0xf);
    let word = u32::from_be_bytes(tag.as_ref()[offset..offset + 4].try_into().unwrap());
    format!("{:06}", (word & 0x7fff_ffff) % 1_000_000)
}

fn other(code: &str) -> String {
    format!("{:06}", (code.parse::<u32>().unwrap() + 1) % 1_000_000)
}

#[test]
fn the_first_start_makes_one_operator_who_owns_the_first_account() {
    let mut village = Village::new();
    assert!(village.people.needs_set_up());
    let ctx = village.ctx();
    let prepared = village.people.prepare_set_up_link(&ctx).unwrap();
    let old = village.commit(prepared).secret;
    let ctx = village.ctx();
    let prepared = village.people.prepare_set_up_link(&ctx).unwrap();
    let link = village.commit(prepared).secret;
    let ctx = village.ctx();
    let set_up = |people: &People, link: &str| {
        people.prepare_set_up(link, new_user("bob@example.org"), Some(HOME), &client(), &ctx)
    };
    assert_eq!(set_up(&village.people, &old).unwrap_err(), Refused::LinkInvalid, "replaced");
    let prepared = set_up(&village.people, &link).unwrap();
    let session = village.commit(prepared);
    assert!(village.is_signed_in(&session));
    assert_eq!(village.people.standing(session.user, OFFICE), Some(Standing::Operator));
    assert_eq!(village.people.role(session.user, HOME), Some(Role::Owner));
    assert_eq!(set_up(&village.people, &link).unwrap_err(), Refused::LinkInvalid, "used");
    assert!(!village.people.needs_set_up());
    let ctx = village.ctx();
    assert!(village.people.prepare_set_up_link(&ctx).is_err());
}

#[test]
fn an_address_belongs_to_one_user() {
    let mut village = Village::new();
    let bob = village.user("bob@example.org", false);
    let eve = village.user("eve@example.org", false);
    let ctx = village.ctx();
    let twice = village.people.prepare_user(new_user("BOB@example.org"), &ctx).unwrap_err();
    assert_eq!(twice, Refused::EmailTaken(mail("bob@example.org")));
    let take = UserEdit { email: Some(mail("bob@example.org")), ..UserEdit::default() };
    assert!(matches!(village.edit(eve, take.clone()), Err(Refused::EmailTaken(_))));
    assert_eq!(village.edit(bob, take), Ok(()));
    let moved = UserEdit { email: Some(mail("robert@example.org")), ..UserEdit::default() };
    village.edit(bob, moved).unwrap();
    assert!(village.people.user_with_email(&mail("bob@example.org")).is_none());
    assert_eq!(village.people.user(bob).unwrap().name, "bob");
}

#[test]
fn an_account_keeps_an_owner() {
    let mut village = Village::new();
    let bob = village.user("bob@example.org", false);
    let eve = village.user("eve@example.org", false);
    village.set_role(bob, HOME, Some(Role::Owner)).unwrap();
    village.set_role(eve, HOME, Some(Role::Admin)).unwrap();
    for role in [None, Some(Role::Member), Some(Role::Admin)] {
        assert_eq!(village.set_role(bob, HOME, role), Err(Refused::LastOwner));
    }
    assert_eq!(village.people.prepare_remove_user(bob).unwrap_err(), Refused::LastOwner);
    village.set_role(eve, HOME, Some(Role::Owner)).unwrap();
    village.edit(eve, UserEdit { suspended: Some(true), ..UserEdit::default() }).unwrap();
    assert_eq!(village.set_role(bob, HOME, None), Err(Refused::LastOwner), "eve is suspended");
    village.edit(eve, UserEdit { suspended: Some(false), ..UserEdit::default() }).unwrap();
    village.set_role(bob, HOME, None).unwrap();
    assert_eq!(village.set_role(bob, HOME, None), Err(Refused::NotFound("member")));
    let gone = village.people.prepare_account_removed(HOME);
    village.commit(gone);
    assert_eq!(village.people.role(eve, HOME), None);
}

#[test]
fn the_broker_keeps_an_operator() {
    let mut village = Village::new();
    let bob = village.user("bob@example.org", true);
    for edit in [
        UserEdit { operator: Some(false), ..UserEdit::default() },
        UserEdit { suspended: Some(true), ..UserEdit::default() },
    ] {
        assert_eq!(village.edit(bob, edit), Err(Refused::LastOperator));
    }
    assert_eq!(village.people.prepare_remove_user(bob).unwrap_err(), Refused::LastOperator);
    let eve = village.user("eve@example.org", true);
    village.edit(bob, UserEdit { operator: Some(false), ..UserEdit::default() }).unwrap();
    assert_eq!(village.people.prepare_remove_user(eve).unwrap_err(), Refused::LastOperator);
}

#[test]
fn who_is_suspended_is_out_at_once_and_everywhere() {
    let mut village = Village::new();
    village.user("operator@example.org", true);
    let bob = village.user("bob@example.org", false);
    village.set_role(bob, HOME, Some(Role::Admin)).unwrap();
    let session = village.sign_in("bob@example.org").unwrap();
    let token = village.token(Some(bob), TokenReach::Account(HOME), &[Scope::AccountRead]);
    let now = village.time();
    assert!(village.is_signed_in(&session));
    assert!(village.people.token(&token, now).is_some());
    let SignInStep::Done(proof) = village.password_step("bob@example.org").unwrap() else {
        panic!("no second factor")
    };
    village.edit(bob, UserEdit { suspended: Some(true), ..UserEdit::default() }).unwrap();
    assert!(!village.is_signed_in(&session));
    assert!(village.people.token(&token, now).is_none());
    assert_eq!(village.finish(&proof).unwrap_err(), Refused::UserSuspended, "under way");
    assert_eq!(village.sign_in("bob@example.org").unwrap_err(), Refused::UserSuspended);
    assert_eq!(village.people.standing(bob, HOME), None);
    village.edit(bob, UserEdit { suspended: Some(false), ..UserEdit::default() }).unwrap();
    assert!(!village.is_signed_in(&session), "he signs in anew");
    assert!(village.sign_in("bob@example.org").is_ok());
}

#[test]
fn nothing_is_left_of_a_user_who_was_removed() {
    let mut village = Village::new();
    let bob = village.user("bob@example.org", false);
    village.set_role(bob, HOME, Some(Role::Admin)).unwrap();
    let session = village.sign_in("bob@example.org").unwrap();
    let token = village.token(Some(bob), TokenReach::Account(HOME), &[Scope::AccountRead]);
    let ctx = village.ctx();
    let prepared = village.people.prepare_password_link(bob, false, &ctx).unwrap();
    let link = village.commit(prepared).secret;
    let prepared = village.people.prepare_remove_user(bob).unwrap();
    village.commit(prepared);
    assert_eq!(village.stored, PeopleSnapshot::default());
    let now = village.time();
    assert!(!village.is_signed_in(&session));
    assert!(village.people.token(&token, now).is_none());
    assert!(village.people.link(&link, now).is_none());
}

#[test]
fn a_session_ends_when_it_is_not_used_or_too_old() {
    let mut village = Village::new();
    village.user("bob@example.org", false);
    let session = village.sign_in("bob@example.org").unwrap();
    for _ in 0..4 {
        village.wait(SESSION_IDLE - 60);
        assert!(village.is_signed_in(&session));
        let ctx = village.ctx();
        let prepared = village.people.prepare_housekeeping(&ctx);
        village.commit(prepared);
        village.restart();
    }
    village.wait(SESSION_LIFETIME - 4 * (SESSION_IDLE - 60));
    assert!(!village.is_signed_in(&session));

    let session = village.sign_in("bob@example.org").unwrap();
    village.wait(SESSION_IDLE);
    assert!(!village.is_signed_in(&session));
    let ctx = village.ctx();
    let prepared = village.people.prepare_housekeeping(&ctx);
    village.commit(prepared);
    assert!(village.stored.sessions.is_empty());
}

#[test]
fn each_sign_in_has_a_new_secret_and_ends_what_the_browser_had() {
    let mut village = Village::new();
    let bob = village.user("bob@example.org", false);
    let first = village.sign_in("bob@example.org").unwrap();
    let SignInStep::Done(proof) = village.password_step("bob@example.org").unwrap() else {
        panic!("no second factor")
    };
    let ctx = village.ctx();
    let prepared = village.people.prepare_sign_in(&proof, Some(first.id), &client(), &ctx).unwrap();
    let second = village.commit(prepared);
    assert_ne!(first.secret, second.secret);
    assert!(!village.is_signed_in(&first) && village.is_signed_in(&second));
    let kept = &village.stored.sessions[0];
    assert_eq!((kept.user, kept.method), (bob, SignInMethod::Password));
    assert_eq!(kept.user_agent, "Mozilla/5.0 [31m", "what disturbs a terminal is gone");
}

#[test]
fn sessions_are_ended_one_by_one_or_all_and_only_ones_own() {
    let mut village = Village::new();
    let bob = village.user("bob@example.org", false);
    let eve = village.user("eve@example.org", false);
    let sessions: Vec<_> = (0..3).map(|_| village.sign_in("bob@example.org").unwrap()).collect();
    let stolen = village.people.prepare_end_session(eve, sessions[0].id).unwrap_err();
    assert_eq!(stolen, Refused::NotFound("session"));
    let prepared = village.people.prepare_end_session(bob, sessions[0].id).unwrap();
    village.commit(prepared);
    assert!(!village.is_signed_in(&sessions[0]) && village.is_signed_in(&sessions[1]));
    let prepared = village.people.prepare_end_sessions(bob, Some(sessions[2].id));
    village.commit(prepared);
    assert!(!village.is_signed_in(&sessions[1]) && village.is_signed_in(&sessions[2]));
    let hash = PasswordHash("$argon2id$new".to_owned());
    let prepared = village.people.prepare_password(bob, hash, None).unwrap();
    village.commit(prepared);
    assert!(!village.is_signed_in(&sessions[2]), "a new password signs out everywhere");
}

#[test]
fn sessions_of_one_user_are_bounded() {
    let mut village = Village::new();
    village.user("bob@example.org", false);
    let first = village.sign_in("bob@example.org").unwrap();
    for _ in 0..60 {
        village.wait(1);
        village.sign_in("bob@example.org").unwrap();
    }
    assert_eq!(village.stored.sessions.len(), 50);
    assert!(!village.is_signed_in(&first));
}

#[test]
fn a_second_factor_is_asked_for_and_a_code_is_good_once() {
    let mut village = Village::new();
    let bob = village.user("bob@example.org", false);
    let (secret, _) = village.enrol(bob);
    let half = village.half("bob@example.org");
    let now = village.time();
    let first = code(&secret, now);
    assert_eq!(village.code_step(&half, &first), Err(Refused::CodeWrong), "it confirmed the app");
    village.wait(30);
    let fresh = code(&secret, village.time());
    assert_eq!(village.code_step(&half, &other(&fresh)), Err(Refused::CodeWrong));
    let proof = village.code_step(&half, &fresh).unwrap();
    let twin = village.half("bob@example.org");
    let replayed = village.code_step(&twin, &fresh).unwrap();
    let session = village.finish(&proof).unwrap();
    assert_eq!(village.stored.sessions[0].method, SignInMethod::PasswordAndCode);
    assert_eq!(village.finish(&replayed).unwrap_err(), Refused::CodeWrong, "of two, one gets in");
    let third = village.half("bob@example.org");
    assert_eq!(village.code_step(&third, &fresh), Err(Refused::CodeWrong));
    assert_eq!(village.code_step(&half, &fresh), Err(Refused::TookTooLong), "used");
    assert!(village.is_signed_in(&session));
    village.restart();
    let half = village.half("bob@example.org");
    assert_eq!(village.code_step(&half, &fresh), Err(Refused::CodeWrong), "a restart forgets none");
}

#[test]
fn recovery_codes_are_good_once_however_they_are_typed() {
    let mut village = Village::new();
    let bob = village.user("bob@example.org", false);
    let (_, codes) = village.enrol(bob);
    assert_eq!(codes.iter().collect::<BTreeSet<_>>().len(), 10);
    let half = village.half("bob@example.org");
    let typed = codes[3].to_lowercase().replace('-', " ");
    let proof = village.code_step(&half, &typed).unwrap();
    village.finish(&proof).unwrap();
    let half = village.half("bob@example.org");
    assert_eq!(village.code_step(&half, &codes[3]), Err(Refused::CodeWrong));
    assert!(village.code_step(&half, &codes[4]).is_ok());
    let ctx = village.ctx();
    let prepared = village.people.prepare_recovery_codes(bob, &ctx).unwrap();
    let fresh = village.commit(prepared);
    let half = village.half("bob@example.org");
    assert_eq!(village.code_step(&half, &codes[5]), Err(Refused::CodeWrong));
    assert!(village.code_step(&half, &fresh[0]).is_ok());
    let prepared = village.people.prepare_no_totp(bob).unwrap();
    village.commit(prepared);
    assert!(village.sign_in("bob@example.org").is_ok());
}

#[test]
fn codes_cannot_be_guessed_and_a_sign_in_does_not_wait_for_ever() {
    let mut village = Village::new();
    let bob = village.user("bob@example.org", false);
    let (secret, codes) = village.enrol(bob);
    village.wait(60);
    let wrong = other(&code(&secret, village.time()));
    let half = village.half("bob@example.org");
    for _ in 0..5 {
        assert_eq!(village.code_step(&half, &wrong), Err(Refused::CodeWrong));
    }
    assert_eq!(village.code_step(&half, &wrong), Err(Refused::TookTooLong), "five are enough");
    let half = village.half("bob@example.org");
    for _ in 0..4 {
        assert_eq!(village.code_step(&half, &wrong), Err(Refused::CodeWrong));
    }
    let half = village.half("bob@example.org");
    assert_eq!(village.code_step(&half, &wrong), Err(Refused::CodeWrong));
    assert_eq!(village.code_step(&half, &wrong), Err(Refused::RateLimited));
    assert!(village.code_step(&half, &codes[0]).is_ok(), "a recovery code still gets him in");
    let half = village.half("bob@example.org");
    village.wait(301);
    let fresh = code(&secret, village.time());
    assert_eq!(village.code_step(&half, &fresh), Err(Refused::TookTooLong));
}

#[test]
fn a_password_that_was_changed_meanwhile_signs_nobody_in() {
    let mut village = Village::new();
    let bob = village.user("bob@example.org", false);
    let (_, old) = village.people.password_of(&mail("bob@example.org")).unwrap();
    let SignInStep::Done(proof) = village.password_step("bob@example.org").unwrap() else {
        panic!("no second factor")
    };
    let new = PasswordHash("$argon2id$new".to_owned());
    let prepared = village.people.prepare_password(bob, new, None).unwrap();
    village.commit(prepared);
    assert_eq!(village.finish(&proof).unwrap_err(), Refused::SignInFailed);
    let ctx = village.ctx();
    let late = village.people.handle_password(bob, &old, &ctx).unwrap_err();
    assert_eq!(late, Refused::SignInFailed);
}

#[test]
fn an_invitation_is_used_once_by_whom_it_is_meant_for() {
    let mut village = Village::new();
    let ctx = village.ctx();
    let new = NewInvitation {
        account: HOME,
        role: Role::Admin,
        email: Some(mail("bob@example.org")),
        expires_in: None,
    };
    let prepared = village.people.prepare_invitation(&Asker::Operator, new.clone(), &ctx).unwrap();
    let secret = village.commit(prepared).secret;
    let now = village.time();
    let shown = village.people.invitation(&secret, now).unwrap();
    assert_eq!((shown.account, shown.role, shown.is_user), (HOME, Role::Admin, false));
    let ctx = village.ctx();
    let accept = |people: &People, email| {
        people.prepare_accept_as_new(&secret, new_user(email), &client(), &ctx)
    };
    assert_eq!(accept(&village.people, "eve@example.org").unwrap_err(), Refused::LinkInvalid);
    let prepared = accept(&village.people, "bob@example.org").unwrap();
    let session = village.commit(prepared);
    assert_eq!(village.people.role(session.user, HOME), Some(Role::Admin));
    assert!(village.is_signed_in(&session));
    assert_eq!(accept(&village.people, "bob@example.org").unwrap_err(), Refused::LinkInvalid);

    // One who is a user already signs in and accepts; he never becomes less than he is.
    let ctx = village.ctx();
    let less = NewInvitation { role: Role::Member, email: None, ..new };
    let prepared = village.people.prepare_invitation(&Asker::Operator, less.clone(), &ctx).unwrap();
    let secret = village.commit(prepared).secret;
    let ctx = village.ctx();
    let prepared = village.people.prepare_accept(&secret, session.user, &ctx).unwrap();
    assert_eq!(village.commit(prepared), HOME);
    assert_eq!(village.people.role(session.user, HOME), Some(Role::Admin));

    let ctx = village.ctx();
    let prepared = village.people.prepare_invitation(&Asker::Operator, less, &ctx).unwrap();
    let created = village.commit(prepared);
    let foreign = village.people.prepare_remove_invitation(OFFICE, created.id).unwrap_err();
    assert_eq!(foreign, Refused::NotFound("invitation"));
    village.wait(7 * 24 * 60 * 60);
    let now = village.time();
    assert!(village.people.invitation(&created.secret, now).is_none(), "expired");
}

#[test]
fn a_password_link_works_once_and_may_take_the_second_factor_away() {
    let mut village = Village::new();
    let bob = village.user("bob@example.org", false);
    village.enrol(bob);
    for second_factor in [false, true] {
        let ctx = village.ctx();
        let prepared = village.people.prepare_password_link(bob, second_factor, &ctx).unwrap();
        let secret = village.commit(prepared).secret;
        let now = village.time();
        let purpose = LinkPurpose::Password { user: bob, second_factor };
        assert_eq!(village.people.link(&secret, now), Some(purpose));
        let hash = PasswordHash(format!("$argon2id${second_factor}"));
        let ctx = village.ctx();
        let prepared =
            village.people.prepare_password_by_link(&secret, hash.clone(), &ctx).unwrap();
        assert_eq!(village.commit(prepared), bob);
        let again = village.people.prepare_password_by_link(&secret, hash, &ctx).unwrap_err();
        assert_eq!(again, Refused::LinkInvalid);
        assert_eq!(village.people.user(bob).unwrap().totp.is_none(), second_factor);
    }
    assert!(village.sign_in("bob@example.org").is_ok());
}

#[test]
fn an_open_page_keeps_no_session_alive() {
    let mut village = Village::new();
    village.user("bob@example.org", false);
    let session = village.sign_in("bob@example.org").unwrap();
    let is_seen =
        |village: &Village| village.people.idle_session(&session.secret, village.time()).is_some();
    for _ in 0..3 {
        village.wait(SESSION_IDLE / 4);
        assert!(is_seen(&village));
    }
    village.wait(SESSION_IDLE / 4 + 1);
    assert!(!is_seen(&village) && !village.is_signed_in(&session));
}

#[test]
fn an_invitation_goes_with_the_right_of_who_made_it() {
    type Change = fn(&mut Village, UserId);
    let less: [(&str, Change); 4] = [
        ("leaves", |village, bob| village.set_role(bob, HOME, None).unwrap()),
        ("is a member", |village, bob| village.set_role(bob, HOME, Some(Role::Member)).unwrap()),
        ("is suspended", |village, bob| {
            village.edit(bob, UserEdit { suspended: Some(true), ..UserEdit::default() }).unwrap();
        }),
        ("is removed", |village, bob| {
            let prepared = village.people.prepare_remove_user(bob).unwrap();
            village.commit(prepared);
        }),
    ];
    for (what, becomes_less) in less {
        let mut village = Village::new();
        let ann = village.user("ann@example.org", false);
        let bob = village.user("bob@example.org", false);
        village.set_role(ann, HOME, Some(Role::Owner)).unwrap();
        village.set_role(bob, HOME, Some(Role::Owner)).unwrap();
        let invite = |village: &mut Village, role, by| {
            let email = Some(mail("carol@example.org"));
            let new = NewInvitation { account: HOME, role, email, expires_in: None };
            let ctx = village.ctx();
            let prepared = village.people.prepare_invitation(&Asker::User(by), new, &ctx).unwrap();
            village.commit(prepared).secret
        };
        let member = invite(&mut village, Role::Member, bob);
        let owner = invite(&mut village, Role::Owner, bob);
        let others = invite(&mut village, Role::Owner, ann);
        let is_open = |village: &Village, secret: &str| {
            village.people.invitation(secret, village.time()).is_some()
        };
        village.set_role(bob, HOME, Some(Role::Admin)).unwrap();
        assert!(!is_open(&village, &owner), "an admin makes no owners");
        assert!(is_open(&village, &member), "but members");
        becomes_less(&mut village, bob);
        assert!(!is_open(&village, &member), "{what}");
        assert!(is_open(&village, &others), "another's stays");
    }
}

#[test]
fn a_mailed_link_leaves_the_operators_good_and_ends_with_any_other() {
    let mut village = Village::new();
    let bob = village.user("bob@example.org", false);
    let email = |text: &str| text.parse::<Email>().unwrap();
    let ctx = village.ctx();
    let prepared = village.people.prepare_password_link(bob, true, &ctx).unwrap();
    let operators = village.commit(prepared).secret;
    let mut mailed = Vec::new();
    for _ in 0..4 {
        let ctx = village.ctx();
        let prepared =
            village.people.prepare_mailed_password_link(&email("bob@example.org"), &ctx).unwrap();
        mailed.push(village.commit(prepared).secret);
    }
    let ctx = village.ctx();
    let ask = |village: &Village, of: &str| {
        village.people.prepare_mailed_password_link(&email(of), &ctx).unwrap_err()
    };
    assert_eq!(ask(&village, "bob@example.org"), Refused::RateLimited);
    assert_eq!(ask(&village, "eve@example.org"), Refused::NotFound("user"));
    let now = village.time();
    assert!(village.people.link(&operators, now).is_some());
    let keeps = LinkPurpose::Password { user: bob, second_factor: false };
    assert!(mailed.iter().all(|secret| village.people.link(secret, now) == Some(keeps)));

    let hash = PasswordHash("$argon2id$new".to_owned());
    let prepared = village.people.prepare_password_by_link(&mailed[1], hash, &ctx).unwrap();
    village.commit(prepared);
    let all = mailed.iter().chain([&operators]);
    assert!(all.clone().all(|secret| village.people.link(secret, now).is_none()));

    let ctx = village.ctx();
    let bobs = email("bob@example.org");
    let prepared = village.people.prepare_mailed_password_link(&bobs, &ctx).unwrap();
    let secret = village.commit(prepared).secret;
    village.wait(60 * 60);
    assert!(village.people.link(&secret, village.time()).is_none(), "an hour");

    let ctx = village.ctx();
    let prepared = village.people.prepare_mailed_password_link(&bobs, &ctx).unwrap();
    let secret = village.commit(prepared).secret;
    let moved = Some(email("robert@example.org"));
    village.edit(bob, UserEdit { email: moved, ..UserEdit::default() }).unwrap();
    assert!(village.people.link(&secret, village.time()).is_none(), "another's mailbox");
}

#[test]
fn a_token_is_worth_what_its_creator_may_and_its_scopes_say() {
    let mut village = Village::new();
    let bob = village.user("bob@example.org", false);
    let eve = village.user("eve@example.org", false);
    village.set_role(eve, HOME, Some(Role::Owner)).unwrap();
    village.set_role(bob, HOME, Some(Role::Admin)).unwrap();
    let scopes = [Scope::AccountRead, Scope::DevicesWrite];
    let token = village.token(Some(bob), TokenReach::Account(HOME), &scopes);
    assert!(token.starts_with("warren_"));
    let now = village.time();
    let grant = village.people.token(&token, now).unwrap();
    assert!(grant.may(Right::ManageDevices, Some(HOME)));
    assert!(!grant.may(Right::ManageDevices, Some(OFFICE)), "another account's");
    assert!(!grant.may(Right::ManagePolicy, Some(HOME)), "out of its scopes");
    assert!(!grant.may(Right::ManageTokens, Some(HOME)), "no token makes tokens");
    village.set_role(bob, HOME, Some(Role::Member)).unwrap();
    let grant = village.people.token(&token, now).unwrap();
    assert!(!grant.may(Right::ManageDevices, Some(HOME)), "its creator may no more");
    assert!(grant.may(Right::ManageOwnDevices, Some(HOME)));
    village.set_role(bob, HOME, None).unwrap();
    assert!(village.people.token(&token, now).is_none());

    let broker = village.token(None, TokenReach::Broker, &[Scope::BrokerRead, Scope::AccountRead]);
    let grant = village.people.token(&broker, now).unwrap();
    assert!(grant.may(Right::ReadBroker, None) && grant.may(Right::ReadAccount, Some(OFFICE)));
    assert!(!grant.may(Right::ManageAccounts, None));
    let ctx = village.ctx();
    let too_much = NewApiToken {
        name: String::new(),
        reach: TokenReach::Account(HOME),
        scopes: [Scope::BrokerRead].into(),
        expires_in: Some(60),
        creator: Some(eve),
    };
    assert!(village.people.prepare_token(too_much.clone(), &ctx).is_err());
    let short = NewApiToken { scopes: [Scope::AccountRead].into(), ..too_much };
    let prepared = village.people.prepare_token(short, &ctx).unwrap();
    let created = village.commit(prepared);
    village.wait(60);
    let now = village.time();
    assert!(village.people.token(&created.secret, now).is_none(), "expired");
    let foreign = village.people.prepare_remove_token(TokenReach::Account(OFFICE), created.id);
    assert_eq!(foreign.unwrap_err(), Refused::NotFound("API token"));
}

#[test]
fn what_is_secret_is_not_in_the_debug_text() {
    let mut village = Village::new();
    let bob = village.user("bob@example.org", false);
    let (secret, codes) = village.enrol(bob);
    let text = format!("{:?} {:?}", village.people, village.stored);
    assert!(!text.contains("argon2id") && !text.contains(&secret) && !text.contains(&codes[0]));
}

#[test]
fn what_somebody_may_is_judged_when_it_is_decided() {
    let mut village = Village::new();
    let [ann, bob, eve] =
        ["ann", "bob", "eve"].map(|name| village.user(&format!("{name}@x.org"), false));
    village.set_role(ann, HOME, Some(Role::Owner)).unwrap();
    village.set_role(bob, HOME, Some(Role::Admin)).unwrap();
    let ctx = village.ctx();
    let change = |village: &Village, by: UserId, user, role| {
        let decided = village.people.prepare_role(&Asker::User(by), user, HOME, role, &ctx);
        decided.map(|it| it.changes.len())
    };
    assert_eq!(change(&village, bob, ann, None), Err(Refused::Forbidden));
    assert_eq!(change(&village, bob, eve, Some(Role::Member)), Err(Refused::NotFound("user")));
    village.set_role(eve, HOME, Some(Role::Member)).unwrap();
    assert_eq!(change(&village, bob, eve, Some(Role::Admin)), Ok(1));
    assert_eq!(change(&village, bob, eve, Some(Role::Owner)), Err(Refused::Forbidden));
    // Meanwhile he has become less, and she more.
    village.set_role(bob, HOME, Some(Role::Member)).unwrap();
    assert_eq!(change(&village, bob, eve, Some(Role::Admin)), Err(Refused::Forbidden));
    village.set_role(bob, HOME, Some(Role::Admin)).unwrap();
    village.set_role(eve, HOME, Some(Role::Owner)).unwrap();
    assert_eq!(change(&village, bob, eve, None), Err(Refused::Forbidden));
    assert_eq!(change(&village, bob, bob, None), Ok(1), "anybody may leave");
    let new = NewInvitation { account: HOME, role: Role::Owner, email: None, expires_in: None };
    let invited = village.people.prepare_invitation(&Asker::User(bob), new, &ctx);
    assert_eq!(invited.err(), Some(Refused::Forbidden));
}

#[test]
fn an_account_has_no_more_people_than_its_limit() {
    let mut village = Village::new();
    let [ann, bob] = ["ann", "bob"].map(|name| village.user(&format!("{name}@x.org"), false));
    village.set_role(ann, HOME, Some(Role::Owner)).unwrap();
    let ctx = village.ctx();
    let new = NewInvitation { account: HOME, role: Role::Member, email: None, expires_in: None };
    let invited = village.people.prepare_invitation(&Asker::User(ann), new.clone(), &ctx).unwrap();
    let secret = village.commit(invited).secret;
    village.people.handle_user_limit(HOME, Some(1));
    let ctx = village.ctx();
    let full = Some(Refused::TooManyPeople);
    assert_eq!(village.people.prepare_accept(&secret, bob, &ctx).err(), full);
    let stranger =
        village.people.prepare_accept_as_new(&secret, new_user("c@x.org"), &client(), &ctx);
    assert_eq!(stranger.err(), full);
    assert_eq!(village.set_role(bob, HOME, Some(Role::Admin)).err(), full);
    assert_eq!(village.people.prepare_invitation(&Asker::User(ann), new, &ctx).err(), full);
    assert!(Refused::TooManyPeople.to_string().contains("operator"));
    village.set_role(ann, HOME, Some(Role::Owner)).expect("who is there stays");
    village.people.handle_user_limit(HOME, None);
    let accepted = village.people.prepare_accept(&secret, bob, &ctx).unwrap();
    village.commit(accepted);
    village.people.handle_user_limit(HOME, Some(1));
    village.set_role(bob, HOME, Some(Role::Admin)).expect("he is one of them");
}
