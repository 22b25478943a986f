//! Signing in and out: password, second factor, sign-out.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use http::StatusCode;
use serde::Deserialize;
use warren_coord::{Proof, SignInStep, WebSessionCreated};
use warren_web::Layout;

use super::answer::{Answer, page, page_with, refused_status, sentence, to};
use super::browser::{Browser, Form, Nothing, SessionCookie, Visitor};
use super::frame::inside;
use super::viewer::Viewer;
use super::{Portal, Shared};

#[derive(Template)]
#[template(path = "sign_in.html")]
struct Page {
    layout: Layout,
    next: String,
    email: String,
    error: String,
    /// What the provider of single sign-on is called.
    sso: Option<String>,
    /// Whether passwords are reset by mail.
    mail: bool,
}

/// The sign-in page, with what has kept somebody out.
pub(super) fn again(
    portal: &Portal,
    browser: &Browser,
    status: StatusCode,
    next: String,
    error: String,
) -> Answer {
    let (layout, sso) = (browser.bare_layout("Sign in"), portal.sso());
    let mail = portal.broker.mail.is_some();
    page_with(status, &Page { layout, next, email: String::new(), error, sso, mail })
}

#[derive(Template)]
#[template(path = "code.html")]
struct CodePage {
    layout: Layout,
    half: String,
    next: String,
    error: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Wish {
    next: String,
}

/// `GET /sign-in`
pub(super) async fn show(
    State(portal): Shared,
    browser: Browser,
    viewer: Option<Viewer>,
    Query(wish): Query<Wish>,
) -> Answer {
    if viewer.is_some() {
        return to(inside(&wish.next));
    }
    // Whoever was invited before there is an operator signs in all the same.
    if portal.broker.people.read(|people| people.users().next().is_none()) {
        return to("/set-up");
    }
    again(&portal, &browser, StatusCode::OK, wish.next, String::new())
}

#[derive(Deserialize)]
pub(super) struct Credentials {
    email: String,
    password: String,
    #[serde(default)]
    next: String,
}

/// `POST /sign-in`
pub(super) async fn sign_in(
    State(portal): Shared,
    visitor: Visitor,
    Form(given): Form<Credentials>,
) -> Answer {
    let people = &portal.broker.people;
    match people.check_password(&given.email, given.password, &visitor.client).await {
        Ok(SignInStep::Done(proof)) => finish(&portal, &visitor, proof, &given.next).await,
        Ok(SignInStep::SecondFactor { secret: half }) => {
            let layout = visitor.browser.bare_layout("Second factor");
            page(&CodePage { layout, half, next: given.next, error: String::new() })
        }
        Err(failure) => {
            let layout = visitor.browser.bare_layout("Sign in");
            let error = sentence(failure.text());
            let (sso, mail) = (portal.sso(), portal.broker.mail.is_some());
            let form = Page { layout, next: given.next, email: given.email, error, sso, mail };
            page_with(refused_status(&failure), &form)
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Code {
    half: String,
    code: String,
    #[serde(default)]
    next: String,
}

/// `POST /sign-in/code`
pub(super) async fn code(
    State(portal): Shared,
    visitor: Visitor,
    Form(given): Form<Code>,
) -> Answer {
    match portal.broker.people.check_code(&given.half, &given.code, &visitor.client) {
        Ok(proof) => finish(&portal, &visitor, proof, &given.next).await,
        Err(failure) => {
            let layout = visitor.browser.bare_layout("Second factor");
            let error = sentence(failure.text());
            let form = CodePage { layout, half: given.half, next: given.next, error };
            page_with(refused_status(&failure), &form)
        }
    }
}

async fn finish(portal: &Arc<Portal>, visitor: &Visitor, proof: Proof, next: &str) -> Answer {
    let created =
        portal.broker.people.sign_in(proof, visitor.session, visitor.client.clone()).await?;
    signed_in(to(inside(next))?, created)
}

/// Has the browser keep a session: its cookie is new, whatever it had before.
pub(super) fn signed_in(mut response: Response, created: WebSessionCreated) -> Answer {
    response.extensions_mut().insert(SessionCookie::Keep(created.secret));
    Ok(response)
}

/// `POST /sign-out`
pub(super) async fn sign_out(
    State(portal): Shared,
    viewer: Viewer,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    let (user, session) = (viewer.user, viewer.session);
    portal
        .broker
        .people
        .durable(viewer.by(), move |people, _| people.prepare_end_session(user, session))
        .await?;
    let mut response = to("/sign-in")?;
    response.extensions_mut().insert(SessionCookie::Forget);
    Ok(response)
}
