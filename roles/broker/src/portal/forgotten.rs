//! Who has forgotten his password asks for a link by mail. The answer is the same whether there is such
//! a user or not, and comes before anybody has looked.

use askama::Template;
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use warren_coord::Email;
use warren_web::Layout;

use super::answer::{Answer, Oops, page, page_with, refused_status, sentence};
use super::browser::{Browser, Form, Visitor};
use super::{Portal, Shared};
use crate::mail::Post;

#[derive(Template)]
#[template(path = "forgotten.html")]
struct Page {
    layout: Layout,
    /// To whom a mail is on its way, if he is a user.
    asked: Option<String>,
    email: String,
    email_error: String,
    error: String,
    /// What the provider of single sign-on is called.
    sso: Option<String>,
}

impl Page {
    fn new(portal: &Portal, browser: &Browser) -> Self {
        Self {
            layout: browser.bare_layout("Password forgotten"),
            asked: None,
            email: String::new(),
            email_error: String::new(),
            error: String::new(),
            sso: portal.sso(),
        }
    }
}

/// Where no mail is sent, there is no such page.
fn post(portal: &Portal) -> Result<&Post, Oops> {
    portal.broker.mail.as_deref().ok_or_else(|| Oops::not_found("page"))
}

/// `GET /password/forgot`
pub(super) async fn show(State(portal): Shared, browser: Browser) -> Answer {
    post(&portal)?;
    page(&Page::new(&portal, &browser))
}

#[derive(Deserialize)]
pub(super) struct Who {
    email: String,
}

/// `POST /password/forgot`
pub(super) async fn ask(State(portal): Shared, visitor: Visitor, Form(who): Form<Who>) -> Answer {
    let post = post(&portal)?;
    let form = Page::new(&portal, &visitor.browser);
    let email: Email = match who.email.parse() {
        Ok(email) => email,
        Err(error) => {
            let error: warren_coord::InvalidEmail = error;
            let email_error = sentence(&error.to_string());
            let form = Page { email: who.email, email_error, ..form };
            return page_with(StatusCode::UNPROCESSABLE_ENTITY, &form);
        }
    };
    if let Err(failure) = portal.broker.people.try_forgotten(&email, &visitor.client) {
        let error = sentence(failure.text());
        return page_with(refused_status(&failure), &Page { email: who.email, error, ..form });
    }
    let asked = Some(email.to_string());
    post.forgotten(email, visitor.client.address);
    page(&Page { asked, ..form })
}
