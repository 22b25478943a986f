//! Signing in by an OpenID provider, and linking an identity there to oneself.
//!
//! Both begin with a form of ours. Its answer is a page that leads to the provider, and no redirect:
//! `form-action 'self'` holds for where a form's answer leads to, too.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, State};
use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use tracing::info;
use warren_coord::{Identity, SsoPurpose, Vouched};
use warren_proto::{AccountId, ErrorCode, UserId, WebSessionId};
use warren_web::Layout;

use super::answer::{Answer, Oops, done, failed, page, refused_status, sentence, to};
use super::browser::{Browser, Form, Visitor};
use super::frame::inside;
use super::profile::confirm;
use super::sign_in::{again, signed_in};
use super::viewer::Viewer;
use super::{Portal, Shared};
use crate::api::problem::Failure;
use crate::oidc::{Failed, Oidc};

const PROFILE: &str = "/profile";

#[derive(Template)]
#[template(path = "leave.html")]
struct Leave {
    layout: Layout,
    name: String,
    url: String,
}

fn oidc(portal: &Portal) -> Result<&Arc<Oidc>, Oops> {
    portal.broker.oidc.as_ref().ok_or_else(|| Oops::not_found("page"))
}

#[derive(Deserialize)]
pub(super) struct Wish {
    #[serde(default)]
    next: String,
    /// An invitation's.
    secret: Option<String>,
}

/// `POST /sign-in/sso`
pub(super) async fn begin(
    State(portal): Shared,
    visitor: Visitor,
    Form(wish): Form<Wish>,
) -> Answer {
    let oidc = oidc(&portal)?;
    let next = wish.next;
    let purpose = SsoPurpose::SignIn { next: next.clone(), invitation: wish.secret };
    match leave(&portal, oidc, &visitor, purpose).await {
        Ok(page) => page,
        Err(failure) => {
            let (status, text) = (refused_status(&failure), sentence(failure.text()));
            again(&portal, &visitor.browser, status, next, text)
        }
    }
}

async fn leave(
    portal: &Portal,
    oidc: &Oidc,
    visitor: &Visitor,
    purpose: SsoPurpose,
) -> Result<Answer, Failure> {
    let people = &portal.broker.people;
    let begun = people.begin_visit(visitor.browser.known_by, purpose, &visitor.client)?;
    let url = oidc.visit(&begun).await.map_err(|why| explain(oidc, &why))?;
    let refresh = HeaderValue::try_from(format!("0; url={url}"));
    let refresh = refresh.map_err(|error| Failure::unavailable(&error.into()))?;
    let layout = visitor.browser.bare_layout("Sign in");
    let answer = page(&Leave { layout, name: oidc.name(), url });
    Ok(answer.map(|mut response| {
        response.headers_mut().insert("refresh", refresh);
        response
    }))
}

/// What somebody is told who can't be vouched for, and what he can do.
fn explain(oidc: &Oidc, why: &Failed) -> Failure {
    let name = oidc.name();
    match why {
        Failed::Provider => Failure::new(
            ErrorCode::Unavailable,
            format!(
                "Signing in with {name} doesn't work at the moment: it can't be reached, or isn't set \
                 up right. Sign in with your password, or try again later; the broker's operator \
                 finds the cause on his page"
            ),
        ),
        Failed::Stale => Failure::new(
            ErrorCode::SignInFailed,
            format!("What {name} said was used already, or is too old: begin again"),
        ),
        Failed::Domain => Failure::new(
            ErrorCode::Forbidden,
            format!(
                "{name} vouches for no e-mail address of yours that may come in here: it must be \
                 verified there, and of a domain that the broker's operator allows"
            ),
        ),
    }
}

/// What the provider has a browser say (RFC 6749 §4.1.2, RFC 9207).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Returned {
    state: String,
    code: String,
    error: String,
    iss: Option<String>,
}

/// `GET /sign-in/sso/callback`
pub(super) async fn finish(
    State(portal): Shared,
    visitor: Visitor,
    viewer: Option<Viewer>,
    Query(returned): Query<Returned>,
) -> Answer {
    let oidc = oidc(&portal)?;
    let Ok(visit) = portal.broker.people.finish_visit(visitor.browser.known_by, &returned.state)
    else {
        let text = "This sign-in was not begun in this browser, was used already or took too \
                    long: begin again.";
        return Err(Oops::told(StatusCode::FORBIDDEN, "Begin again", text));
    };
    let vouched = match check(oidc, &returned).await {
        Ok(()) => oidc.vouch(&returned.code, &visit).await.map_err(|why| explain(oidc, &why)),
        Err(failure) => Err(failure),
    };
    match visit.purpose {
        SsoPurpose::Link { user, session } => {
            finish_link(&portal, viewer, user, session, vouched).await
        }
        SsoPurpose::SignIn { next, invitation } => {
            let outcome = match vouched {
                Ok(vouched) => enter(&portal, oidc, &visitor, vouched, invitation).await,
                Err(failure) => Err(failure),
            };
            match outcome {
                Ok(created) => signed_in(to(inside(&next))?, created),
                Err(failure) => refuse(&portal, &visitor.browser, next, &failure),
            }
        }
    }
}

/// Whether the provider let somebody in, and it was this provider.
async fn check(oidc: &Oidc, returned: &Returned) -> Result<(), Failure> {
    let name = oidc.name();
    let is_from = oidc.is_from(returned.iss.as_deref()).await;
    if !is_from.map_err(|why| explain(oidc, &why))? {
        let text = format!("The answer is none of {name}: begin again");
        return Err(Failure::new(ErrorCode::SignInFailed, text));
    }
    if returned.error.is_empty() && !returned.code.is_empty() {
        return Ok(());
    }
    info!(error = returned.error, "the OpenID provider let somebody not in");
    let text = match returned.error.as_str() {
        "access_denied" => format!("You were not let in by {name}, or have called it off there"),
        _ => format!("{name} could not sign you in: begin again, or sign in with your password"),
    };
    Err(Failure::new(ErrorCode::SignInFailed, text))
}

async fn enter(
    portal: &Portal,
    oidc: &Oidc,
    visitor: &Visitor,
    vouched: Vouched,
    invitation: Option<String>,
) -> Result<warren_coord::WebSessionCreated, Failure> {
    let newcomers = newcomers(portal, oidc);
    let client = visitor.client.clone();
    let people = &portal.broker.people;
    people.sign_in_vouched(vouched, invitation, newcomers, visitor.session, client).await
}

fn newcomers(portal: &Portal, oidc: &Oidc) -> Option<AccountId> {
    let name = oidc.newcomers()?;
    let found = portal.broker.accounts.all().into_iter().find(|it| it.record().name == *name);
    found.filter(|account| !account.is_suspended()).map(|account| account.id())
}

fn refuse(portal: &Portal, browser: &Browser, next: String, failure: &Failure) -> Answer {
    let (status, text) = (refused_status(failure), sentence(failure.text()));
    again(portal, browser, status, next, text)
}

#[derive(Deserialize)]
pub(super) struct Confirm {
    #[serde(default)]
    confirm: String,
}

/// `POST /profile/sso/link`
pub(super) async fn link(
    State(portal): Shared,
    viewer: Viewer,
    visitor: Visitor,
    Form(form): Form<Confirm>,
) -> Answer {
    let oidc = oidc(&portal)?;
    if let Err(text) = confirm(&portal, &viewer, form.confirm).await {
        return failed(PROFILE, Failure::invalid(text));
    }
    let purpose = SsoPurpose::Link { user: viewer.user, session: viewer.session };
    match leave(&portal, oidc, &visitor, purpose).await {
        Ok(page) => page,
        Err(failure) => failed(PROFILE, failure),
    }
}

/// Only in the session that it was begun in: whoever is signed in by now might be somebody else.
async fn finish_link(
    portal: &Portal,
    viewer: Option<Viewer>,
    user: UserId,
    session: WebSessionId,
    vouched: Result<Vouched, Failure>,
) -> Answer {
    let same = viewer.filter(|viewer| viewer.user == user && viewer.session == session);
    let Some(viewer) = same else { return Err(Oops::SignIn { path: PROFILE.to_owned() }) };
    let identity = match vouched {
        Ok(vouched) => vouched.identity,
        Err(failure) => return failed(PROFILE, failure),
    };
    let linked = portal
        .broker
        .people
        .durable(viewer.by(), move |people, _| people.prepare_link_identity(user, identity))
        .await;
    match linked {
        Ok(()) => done(PROFILE, "Linked: you can sign in so from now on."),
        Err(failure) => failed(PROFILE, failure),
    }
}

#[derive(Deserialize)]
pub(super) struct Unlink {
    issuer: String,
    subject: String,
}

/// `POST /profile/sso/unlink`
pub(super) async fn unlink(
    State(portal): Shared,
    viewer: Viewer,
    Form(form): Form<Unlink>,
) -> Answer {
    let user = viewer.user;
    let identity = Identity { issuer: form.issuer, subject: form.subject };
    let unlinked = portal
        .broker
        .people
        .durable(viewer.by(), move |people, _| people.prepare_unlink_identity(user, &identity))
        .await;
    match unlinked {
        Ok(()) => done(PROFILE, "Unlinked."),
        Err(failure) => failed(PROFILE, failure),
    }
}
