//! One-time links: set-up, invitations, a password that was forgotten.
//!
//! The secret is in the link's fragment, which no server and no log sees. The page's script puts it
//! into a form's field (without it, a person does), and from there on it goes in bodies.

use askama::Template;
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use warren_coord::{Email, LinkPurpose, NewUser, UnixTime, check_password};
use warren_proto::{AccountId, ErrorCode};
use warren_web::Layout;

use super::answer::{Answer, done, page, page_with, refused_status, sentence, to};
use super::browser::{Browser, Form, Visitor};
use super::sign_in::signed_in;
use super::viewer::Viewer;
use super::{Portal, Shared};
use crate::accounts::fresh_ctx;
use crate::api::problem::{ApiResult, Failure};

#[derive(Template)]
#[template(path = "link.html")]
struct LinkPage {
    layout: Layout,
    title: &'static str,
    text: &'static str,
    /// What to type where the link isn't at hand.
    command: &'static str,
    action: &'static str,
    error: String,
}

#[derive(Template)]
#[template(path = "set_up.html")]
struct SetUpPage {
    layout: Layout,
    account: String,
    secret: String,
    name: String,
    email: String,
    email_error: String,
    password_error: String,
    error: String,
}

#[derive(Template)]
#[template(path = "invitation.html")]
struct InvitationPage {
    layout: Layout,
    account: String,
    role: String,
    secret: String,
    signed_in: Option<String>,
    is_user: bool,
    sso: Option<String>,
    name: String,
    email: String,
    email_error: String,
    password_error: String,
    error: String,
}

#[derive(Template)]
#[template(path = "new_password.html")]
struct PasswordPage {
    layout: Layout,
    email: String,
    secret: String,
    password_error: String,
}

/// A link's secret.
#[derive(Deserialize)]
pub(super) struct Secret {
    secret: String,
}

/// Who wants to be a user, as he typed it.
#[derive(Deserialize)]
pub(super) struct Person {
    secret: String,
    name: String,
    email: String,
    password: String,
}

/// What is wrong with what somebody typed.
#[derive(Debug, Default)]
struct Wrong {
    email: String,
    password: String,
    other: String,
}

impl Wrong {
    fn other(failure: &Failure) -> Self {
        Self { other: sentence(failure.text()), ..Self::default() }
    }

    /// Checks what was typed before anything is hashed.
    fn check(person: &Person) -> Result<Email, Self> {
        let email: Email = person.email.parse().map_err(|error: warren_coord::InvalidEmail| {
            Self { email: sentence(&error.to_string()), ..Self::default() }
        })?;
        check_password(&person.password, &email).map_err(|refused| Self {
            password: sentence(&refused.to_string()),
            ..Self::default()
        })?;
        Ok(email)
    }
}

impl Person {
    /// As the people take him in; hashing takes a moment.
    async fn into_user(self, portal: &Portal, email: Email) -> ApiResult<(String, NewUser)> {
        let password = Some(portal.broker.people.hash(self.password).await?);
        Ok((self.secret, NewUser { email, name: self.name, password, operator: false }))
    }
}

fn ask(browser: &Browser, kind: Kind, error: &str) -> LinkPage {
    let (title, text, command, action) = match kind {
        Kind::SetUp => (
            "Set this broker up",
            "Open the link that the broker printed at its start, or paste the end of it. Where it \
             runs as a service, this prints one:",
            "warren admin users create YOUR-E-MAIL --operator",
            "/set-up",
        ),
        Kind::Invitation => (
            "Invitation",
            "Open the link that you were sent, or paste the end of it.",
            "",
            "/invitation",
        ),
        Kind::Password => (
            "New password",
            "Open the link that you were sent, or paste the end of it.",
            "",
            "/password",
        ),
    };
    let layout = browser.bare_layout(title);
    LinkPage { layout, title, text, command, action, error: error.to_owned() }
}

/// What a link is for.
#[derive(Debug, Clone, Copy)]
enum Kind {
    SetUp,
    Invitation,
    Password,
}

const VOID: &str = "This link is void: it was used, or its time is over.";

fn void(browser: &Browser, kind: Kind) -> Answer {
    page_with(StatusCode::UNPROCESSABLE_ENTITY, &ask(browser, kind, VOID))
}

/// The link may be good and something else in the way.
fn refused(browser: &Browser, kind: Kind, failure: &Failure) -> Answer {
    if failure.code() == ErrorCode::LinkInvalid {
        return void(browser, kind);
    }
    page_with(refused_status(failure), &ask(browser, kind, &sentence(failure.text())))
}

/// Refuses somebody an invitation for whoever has it if the account's policy speaks of him: nobody
/// has made sure that he is the one.
fn check_open_to(portal: &Portal, secret: &str, email: &Email) -> Result<(), &'static str> {
    let found = portal.broker.people.read(|people| people.invitation(secret, now()));
    let Some(open) = found.filter(|it| it.email.is_none()) else { return Ok(()) };
    let account = portal.broker.accounts.get(open.account);
    let is_named = account.is_some_and(|it| it.read(|it| it.policy_names_person(email)));
    if is_named { Err(NAMED) } else { Ok(()) }
}

const NAMED: &str = "This invitation doesn't say for whom it is, and that address has rights of its \
                     own in the account: ask for an invitation to it.";

fn now() -> UnixTime {
    UnixTime(fresh_ctx().unix.as_secs())
}

/// `GET /set-up`
pub(super) async fn set_up(State(portal): Shared, browser: Browser) -> Answer {
    if !portal.broker.people.read(warren_coord::People::needs_set_up) {
        return to("/sign-in");
    }
    page(&ask(&browser, Kind::SetUp, ""))
}

/// `POST /set-up`
pub(super) async fn set_up_with(
    State(portal): Shared,
    browser: Browser,
    Form(Secret { secret }): Form<Secret>,
) -> Answer {
    let purpose = portal.broker.people.read(|people| people.link(&secret, now()));
    match purpose {
        Some(LinkPurpose::SetUp) => {
            let person = Person {
                secret,
                name: String::new(),
                email: String::new(),
                password: String::new(),
            };
            page(&set_up_form(&portal, &browser, person, Wrong::default()))
        }
        Some(LinkPurpose::Password { .. }) | None => void(&browser, Kind::SetUp),
    }
}

fn set_up_form(portal: &Portal, browser: &Browser, person: Person, wrong: Wrong) -> SetUpPage {
    let first = portal.broker.accounts.all().into_iter().next();
    SetUpPage {
        layout: browser.bare_layout("Set up"),
        account: first.map(|account| account.record().name.to_string()).unwrap_or_default(),
        secret: person.secret,
        name: person.name,
        email: person.email,
        email_error: wrong.email,
        password_error: wrong.password,
        error: wrong.other,
    }
}

/// `POST /set-up/operator`
pub(super) async fn create_operator(
    State(portal): Shared,
    visitor: Visitor,
    Form(person): Form<Person>,
) -> Answer {
    let email = match Wrong::check(&person) {
        Ok(email) => email,
        Err(wrong) => {
            let form = set_up_form(&portal, &visitor.browser, person, wrong);
            return page_with(StatusCode::UNPROCESSABLE_ENTITY, &form);
        }
    };
    let people = &portal.broker.people;
    // Nobody has a password hashed who holds no link.
    people.try_link(&person.secret, &visitor.client)?;
    if people.read(|people| people.link(&person.secret, now())) != Some(LinkPurpose::SetUp) {
        return void(&visitor.browser, Kind::SetUp);
    }
    let account = portal.broker.accounts.all().into_iter().next().map(|account| account.id());
    let (secret, new) = person.into_user(&portal, email).await?;
    let client = visitor.client.clone();
    let created = portal
        .broker
        .people
        .durable(visitor.by_link(), move |people, ctx| {
            people.prepare_set_up(&secret, new, account, &client, ctx)
        })
        .await;
    match created {
        Ok(created) => signed_in(done("/", "Welcome. Add your first devices.")?, created),
        Err(failure) => refused(&visitor.browser, Kind::SetUp, &failure),
    }
}

/// `GET /invitation`
pub(super) async fn invitation(browser: Browser) -> Answer {
    page(&ask(&browser, Kind::Invitation, ""))
}

/// `POST /invitation`
pub(super) async fn invitation_with(
    State(portal): Shared,
    browser: Browser,
    viewer: Option<Viewer>,
    Form(Secret { secret }): Form<Secret>,
) -> Answer {
    let person =
        Person { secret, name: String::new(), email: String::new(), password: String::new() };
    invitation_form(&portal, &browser, viewer, person, Wrong::default(), StatusCode::OK)
}

fn invitation_form(
    portal: &Portal,
    browser: &Browser,
    viewer: Option<Viewer>,
    person: Person,
    wrong: Wrong,
    status: StatusCode,
) -> Answer {
    let found = portal.broker.people.read(|people| people.invitation(&person.secret, now()));
    let Some(found) = found else { return void(browser, Kind::Invitation) };
    let Some(account) = portal.broker.accounts.get(found.account) else {
        return void(browser, Kind::Invitation);
    };
    let email = match (person.email.is_empty(), found.email) {
        (true, Some(email)) => email.to_string(),
        (_, _) => person.email,
    };
    let form = InvitationPage {
        layout: browser.bare_layout("Invitation"),
        account: account.record().name.to_string(),
        role: found.role.to_string(),
        secret: person.secret,
        signed_in: viewer.map(|viewer| viewer.email.to_string()),
        is_user: found.is_user,
        sso: portal.sso(),
        name: person.name,
        email,
        email_error: wrong.email,
        password_error: wrong.password,
        error: wrong.other,
    };
    page_with(status, &form)
}

/// `POST /invitation/accept`: somebody who is signed in.
pub(super) async fn accept(
    State(portal): Shared,
    viewer: Viewer,
    Form(Secret { secret }): Form<Secret>,
) -> Answer {
    if let Err(text) = check_open_to(&portal, &secret, &viewer.email) {
        return page_with(
            StatusCode::UNPROCESSABLE_ENTITY,
            &ask(&viewer.browser, Kind::Invitation, text),
        );
    }
    let user = viewer.user;
    let accepted = portal
        .broker
        .people
        .durable(viewer.by(), move |people, ctx| people.prepare_accept(&secret, user, ctx))
        .await;
    match accepted {
        Ok(account) => done(&home_of(&portal, account), "Welcome."),
        Err(failure) => refused(&viewer.browser, Kind::Invitation, &failure),
    }
}

/// `POST /invitation/new`: somebody who is no user yet.
pub(super) async fn accept_as_new(
    State(portal): Shared,
    visitor: Visitor,
    Form(person): Form<Person>,
) -> Answer {
    let wrong = StatusCode::UNPROCESSABLE_ENTITY;
    let email = match Wrong::check(&person) {
        Ok(email) => email,
        Err(error) => {
            return invitation_form(&portal, &visitor.browser, None, person, error, wrong);
        }
    };
    let people = &portal.broker.people;
    people.try_link(&person.secret, &visitor.client)?;
    if people.read(|people| people.invitation(&person.secret, now())).is_none() {
        return void(&visitor.browser, Kind::Invitation);
    }
    if let Err(text) = check_open_to(&portal, &person.secret, &email) {
        let error = Wrong { email: text.to_owned(), ..Wrong::default() };
        return invitation_form(&portal, &visitor.browser, None, person, error, wrong);
    }
    let again = Person {
        secret: person.secret.clone(),
        name: person.name.clone(),
        email: person.email.clone(),
        password: String::new(),
    };
    let (secret, new) = person.into_user(&portal, email).await?;
    let client = visitor.client.clone();
    let created = portal
        .broker
        .people
        .durable(visitor.by_link(), move |people, ctx| {
            people.prepare_accept_as_new(&secret, new, &client, ctx)
        })
        .await;
    match created {
        Ok(created) => {
            people.link_was_good(&again.secret, &visitor.client);
            signed_in(done("/", "Welcome.")?, created)
        }
        Err(failure) => {
            let error = Wrong::other(&failure);
            invitation_form(&portal, &visitor.browser, None, again, error, wrong)
        }
    }
}

fn home_of(portal: &Portal, account: AccountId) -> String {
    match portal.broker.accounts.get(account) {
        Some(account) => format!("/a/{}/devices", account.record().name),
        None => "/".to_owned(),
    }
}

/// `GET /password`
pub(super) async fn password(browser: Browser) -> Answer {
    page(&ask(&browser, Kind::Password, ""))
}

/// `POST /password`
pub(super) async fn password_with(
    State(portal): Shared,
    browser: Browser,
    Form(Secret { secret }): Form<Secret>,
) -> Answer {
    match whose(&portal, &secret) {
        Some(email) => page(&password_form(&browser, &email, secret, String::new())),
        None => void(&browser, Kind::Password),
    }
}

fn password_form(browser: &Browser, email: &Email, secret: String, error: String) -> PasswordPage {
    PasswordPage {
        layout: browser.bare_layout("New password"),
        email: email.to_string(),
        secret,
        password_error: error,
    }
}

fn whose(portal: &Portal, secret: &str) -> Option<Email> {
    portal.broker.people.read(|people| match people.link(secret, now())? {
        LinkPurpose::Password { user, .. } => Some(people.user(user)?.email.clone()),
        LinkPurpose::SetUp => None,
    })
}

/// A link's secret, and the password that it is to set.
#[derive(Deserialize)]
pub(super) struct NewPassword {
    secret: String,
    password: String,
}

/// `POST /password/new`
pub(super) async fn set_password(
    State(portal): Shared,
    visitor: Visitor,
    Form(given): Form<NewPassword>,
) -> Answer {
    let Some(email) = whose(&portal, &given.secret) else {
        return void(&visitor.browser, Kind::Password);
    };
    if let Err(refused) = check_password(&given.password, &email) {
        let error = sentence(&refused.to_string());
        let form = password_form(&visitor.browser, &email, given.secret, error);
        return page_with(StatusCode::UNPROCESSABLE_ENTITY, &form);
    }
    let (secret, hash) = (given.secret, portal.broker.people.hash(given.password).await?);
    let set = portal
        .broker
        .people
        .durable(visitor.by_link(), move |people, ctx| {
            people.prepare_password_by_link(&secret, hash, ctx)
        })
        .await;
    match set {
        Ok(_) => done("/sign-in", "The password is set: sign in with it."),
        Err(failure) => refused(&visitor.browser, Kind::Password, &failure),
    }
}
