//! One's own profile: name, password, second factor, where one is signed in.

use askama::Template;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::Deserialize;
use warren_coord::{
    SignInMethod, UnixTime, UserEdit, UserRecord, WebSessionRecord, check_password,
};
use warren_proto::WebSessionId;
use warren_web::{Layout, When, qr};

use super::answer::{Answer, Oops, done, failed, page, page_with, sentence};
use super::browser::{Form, Nothing};
use super::viewer::Viewer;
use super::{Portal, Shared};
use crate::accounts::fresh_ctx;
use crate::api::problem::Failure;

/// A sign-in counts as lately for so many seconds.
const RECENT: u64 = 5 * 60;

struct Session {
    browser: String,
    address: String,
    method: &'static str,
    created: When,
    used: When,
    current: bool,
    end: String,
}

/// Who one is at an OpenID provider.
struct Identity {
    /// What the provider is called.
    at: String,
    issuer: String,
    subject: String,
}

#[derive(Template)]
#[template(path = "profile.html")]
struct Page {
    layout: Layout,
    email: String,
    name: String,
    is_operator: bool,
    has_password: bool,
    has_totp: bool,
    codes_left: usize,
    /// What the provider of single sign-on is called.
    sso: Option<String>,
    /// Whether an identity there is linked.
    is_linked: bool,
    identities: Vec<Identity>,
    sessions: Vec<Session>,
    name_error: String,
    current_error: String,
    password_error: String,
}

#[derive(Template)]
#[template(path = "totp.html")]
struct TotpPage {
    layout: Layout,
    qr: String,
    secret: String,
    has_password: bool,
    error: String,
    confirm_error: String,
}

#[derive(Template)]
#[template(path = "codes.html")]
struct CodesPage {
    layout: Layout,
    all: String,
    codes: Vec<String>,
}

/// What is wrong with what was typed.
#[derive(Debug, Default)]
struct Wrong {
    name: String,
    current: String,
    password: String,
}

/// `GET /profile`
pub(super) async fn show(State(portal): Shared, viewer: Viewer) -> Answer {
    render(&portal, &viewer, StatusCode::OK, Wrong::default())
}

fn record(portal: &Portal, viewer: &Viewer) -> Result<UserRecord, Oops> {
    let record = portal.broker.people.read(|people| people.user(viewer.user).cloned());
    record.ok_or_else(|| Oops::not_found("user"))
}

fn render(portal: &Portal, viewer: &Viewer, status: StatusCode, wrong: Wrong) -> Answer {
    let user = record(portal, viewer)?;
    let now = fresh_ctx().unix.as_secs();
    let mut sessions: Vec<WebSessionRecord> = portal
        .broker
        .people
        .read(|people| people.live_sessions(viewer.user, UnixTime(now)).collect());
    sessions.sort_by_key(|it| (it.id != viewer.session, std::cmp::Reverse(it.last_used)));
    let oidc = portal.broker.oidc.as_ref();
    let is_present = |issuer: &str| oidc.is_some_and(|oidc| oidc.issuer() == issuer);
    let identity = |it: &warren_coord::Identity| Identity {
        at: portal.sso().filter(|_| is_present(&it.issuer)).unwrap_or_else(|| it.issuer.clone()),
        issuer: it.issuer.clone(),
        subject: it.subject.clone(),
    };
    let form = Page {
        layout: viewer.layout(portal, "Your profile", None),
        sso: portal.sso(),
        is_linked: user.identities.iter().any(|it| is_present(&it.issuer)),
        identities: user.identities.iter().map(identity).collect(),
        email: user.email.to_string(),
        name: user.name,
        is_operator: user.operator,
        has_password: user.password.is_some(),
        has_totp: user.totp.is_some(),
        codes_left: user.recovery_codes.len(),
        sessions: sessions.iter().map(|it| session(viewer, it, now)).collect(),
        name_error: wrong.name,
        current_error: wrong.current,
        password_error: wrong.password,
    };
    page_with(status, &form)
}

fn session(viewer: &Viewer, session: &WebSessionRecord, now: u64) -> Session {
    Session {
        browser: browser(&session.user_agent),
        address: session.address.to_string(),
        method: match session.method {
            SignInMethod::Password => "by password",
            SignInMethod::PasswordAndCode => "by password and code",
            SignInMethod::PasswordAndRecoveryCode => "by password and recovery code",
            SignInMethod::Oidc => "by single sign-on",
            SignInMethod::Link => "by a one-time link",
        },
        created: When { at: session.created.0, now },
        used: When { at: session.last_used.0, now },
        current: session.id == viewer.session,
        end: format!("/profile/sessions/{}/end", session.id),
    }
}

/// A browser as people call it: `Firefox on Linux`.
fn browser(user_agent: &str) -> String {
    let first = |words: &[(&str, &'static str)]| {
        words.iter().find(|(word, _)| user_agent.contains(word)).map(|(_, name)| *name)
    };
    let program = first(&[
        ("Edg/", "Edge"),
        ("OPR/", "Opera"),
        ("Firefox/", "Firefox"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
    ]);
    let system = first(&[
        ("Android", "Android"),
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Windows", "Windows"),
        ("Mac OS", "macOS"),
        ("Linux", "Linux"),
    ]);
    match (program, system) {
        (Some(program), Some(system)) => format!("{program} on {system}"),
        (Some(one), None) | (None, Some(one)) => one.to_owned(),
        (None, None) => user_agent.split(' ').next().unwrap_or_default().to_owned(),
    }
}

#[derive(Deserialize)]
pub(super) struct Name {
    name: String,
}

/// `POST /profile/name`
pub(super) async fn rename(
    State(portal): Shared,
    viewer: Viewer,
    Form(form): Form<Name>,
) -> Answer {
    if form.name.trim().is_empty() {
        let wrong = Wrong { name: "Everybody has a name.".to_owned(), ..Wrong::default() };
        return render(&portal, &viewer, StatusCode::UNPROCESSABLE_ENTITY, wrong);
    }
    let (user, edit) = (viewer.user, UserEdit { name: Some(form.name), ..UserEdit::default() });
    let outcome = portal
        .broker
        .people
        .durable(viewer.by(), move |people, _| people.prepare_edit_user(user, edit))
        .await;
    match outcome {
        Ok(()) => done("/profile", "Your name is saved."),
        Err(failure) => failed("/profile", failure),
    }
}

#[derive(Deserialize)]
pub(super) struct Password {
    #[serde(default)]
    current: String,
    password: String,
}

/// `POST /profile/password`
pub(super) async fn change_password(
    State(portal): Shared,
    viewer: Viewer,
    Form(form): Form<Password>,
) -> Answer {
    let wrong = StatusCode::UNPROCESSABLE_ENTITY;
    if let Err(refused) = check_password(&form.password, &viewer.email) {
        let password = sentence(&refused.to_string());
        return render(&portal, &viewer, wrong, Wrong { password, ..Wrong::default() });
    }
    if let Err(current) = confirm(&portal, &viewer, form.current).await {
        return render(&portal, &viewer, wrong, Wrong { current, ..Wrong::default() });
    }
    let hash = portal.broker.people.hash(form.password).await?;
    let (user, keep) = (viewer.user, Some(viewer.session));
    let outcome = portal
        .broker
        .people
        .durable(viewer.by(), move |people, _| people.prepare_password(user, hash, keep))
        .await;
    match outcome {
        Ok(()) => done("/profile", "Your password is changed. All other browsers are signed out."),
        Err(failure) => failed("/profile", failure),
    }
}

/// Whether a person knows his password; guessing is as slow as at sign-in. Who has none has signed in
/// lately.
pub(super) async fn confirm(
    portal: &Portal,
    viewer: &Viewer,
    password: String,
) -> Result<(), String> {
    let people = &portal.broker.people;
    let now = fresh_ctx().unix.as_secs();
    let is_lately = people.read(|people| {
        let has_password = people.user(viewer.user).is_some_and(|user| user.password.is_some());
        let mut sessions = people.live_sessions(viewer.user, UnixTime(now));
        has_password || sessions.any(|it| it.id == viewer.session && is_recent(it.created.0, now))
    });
    if !is_lately {
        return Err(
            "You signed in more than 5 minutes ago: sign out, sign in again, and come back \
                    here."
                .to_owned(),
        );
    }
    let confirmed = people.confirm_password(viewer.user, password, viewer.source).await;
    confirmed.map_err(|failure| sentence(failure.text()))
}

fn is_recent(created: u64, now: u64) -> bool {
    now.saturating_sub(created) <= RECENT
}

/// `GET /profile/totp`
pub(super) async fn begin_totp(State(portal): Shared, viewer: Viewer) -> Answer {
    totp_page(&portal, &viewer, StatusCode::OK, String::new(), String::new())
}

fn totp_page(
    portal: &Portal,
    viewer: &Viewer,
    status: StatusCode,
    error: String,
    confirm_error: String,
) -> Answer {
    let ctx = fresh_ctx();
    let begun = portal.broker.people.soft(|people| people.begin_totp(viewer.user, &ctx));
    let enrolment = match begun {
        Ok(enrolment) => enrolment,
        Err(refused) => return failed("/profile", refused.into()),
    };
    let uri = enrolment.uri("Warren", viewer.email.as_str());
    let form = TotpPage {
        layout: viewer.layout(portal, "Second factor", None),
        qr: qr::svg(&uri, "The key as a QR code").unwrap_or_default(),
        secret: enrolment.secret(),
        has_password: record(portal, viewer)?.password.is_some(),
        error,
        confirm_error,
    };
    page_with(status, &form)
}

#[derive(Deserialize)]
pub(super) struct Code {
    code: String,
    #[serde(default)]
    confirm: String,
}

/// `POST /profile/totp`
pub(super) async fn confirm_totp(
    State(portal): Shared,
    viewer: Viewer,
    Form(form): Form<Code>,
) -> Answer {
    let wrong = StatusCode::UNPROCESSABLE_ENTITY;
    if let Err(text) = confirm(&portal, &viewer, form.confirm).await {
        return totp_page(&portal, &viewer, wrong, String::new(), text);
    }
    let user = viewer.user;
    let outcome = portal
        .broker
        .people
        .durable(viewer.by(), move |people, ctx| people.prepare_totp(user, &form.code, ctx))
        .await;
    match outcome {
        Ok(codes) => codes_page(&portal, &viewer, codes),
        Err(failure) => {
            let error = sentence(failure.text());
            totp_page(&portal, &viewer, wrong, error, String::new())
        }
    }
}

/// The codes are nowhere else, so their page is no redirect.
fn codes_page(portal: &Portal, viewer: &Viewer, codes: Vec<String>) -> Answer {
    let layout = viewer.layout(portal, "Recovery codes", None);
    page(&CodesPage { layout, all: codes.join("\n"), codes })
}

/// `POST /profile/recovery-codes`
pub(super) async fn new_codes(
    State(portal): Shared,
    viewer: Viewer,
    Form(form): Form<Confirm>,
) -> Answer {
    if let Err(text) = confirm(&portal, &viewer, form.confirm).await {
        return failed("/profile", Failure::invalid(text));
    }
    let user = viewer.user;
    let outcome = portal
        .broker
        .people
        .durable(viewer.by(), move |people, ctx| people.prepare_recovery_codes(user, ctx))
        .await;
    match outcome {
        Ok(codes) => codes_page(&portal, &viewer, codes),
        Err(failure) => failed("/profile", failure),
    }
}

#[derive(Deserialize)]
pub(super) struct Confirm {
    #[serde(default)]
    confirm: String,
}

/// `POST /profile/totp/off`
pub(super) async fn end_totp(
    State(portal): Shared,
    viewer: Viewer,
    Form(form): Form<Confirm>,
) -> Answer {
    if let Err(text) = confirm(&portal, &viewer, form.confirm).await {
        return failed("/profile", Failure::invalid(text));
    }
    let user = viewer.user;
    let outcome = portal
        .broker
        .people
        .durable(viewer.by(), move |people, _| people.prepare_no_totp(user))
        .await;
    match outcome {
        Ok(()) => done("/profile", "The second factor is off."),
        Err(failure) => failed("/profile", failure),
    }
}

/// `POST /profile/sessions/{session}/end`
pub(super) async fn end_session(
    State(portal): Shared,
    viewer: Viewer,
    Path(session): Path<String>,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    let session: WebSessionId = session.parse().map_err(|_| Oops::not_found("session"))?;
    let user = viewer.user;
    let outcome = portal
        .broker
        .people
        .durable(viewer.by(), move |people, _| people.prepare_end_session(user, session))
        .await;
    match outcome {
        Ok(()) => done("/profile", "It is signed out."),
        Err(failure) => Err(failure.into()),
    }
}

/// `POST /profile/sessions/end`
pub(super) async fn end_sessions(
    State(portal): Shared,
    viewer: Viewer,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    let (user, keep) = (viewer.user, Some(viewer.session));
    let outcome = portal
        .broker
        .people
        .durable(viewer.by(), move |people, _| Ok(people.prepare_end_sessions(user, keep)))
        .await;
    match outcome {
        Ok(()) => done("/profile", "All other browsers are signed out."),
        Err(failure) => failed("/profile", failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_no_password_has_signed_in_within_five_minutes() {
        assert!(is_recent(1_000, 1_000) && is_recent(1_000, 1_300));
        assert!(!is_recent(1_000, 1_301));
    }

    #[test]
    fn a_browser_is_called_as_people_call_it() {
        let chrome = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
                      Chrome/156.0.0.0 Safari/537.36";
        assert_eq!(browser(chrome), "Chrome on Linux");
        let phone = "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) AppleWebKit/605.1.15 \
                     (KHTML, like Gecko) Version/19.0 Mobile/15E148 Safari/604.1";
        assert_eq!(browser(phone), "Safari on iPhone");
        assert_eq!(browser("curl/8.5.0"), "curl/8.5.0");
        assert_eq!(browser(""), "");
    }
}
