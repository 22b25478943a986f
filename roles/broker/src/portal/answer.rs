//! Answers: pages, redirects, and what has gone wrong.

use askama::Template;
use axum::response::{IntoResponse, Response};
use http::header::LOCATION;
use http::{HeaderValue, StatusCode};
use warren_proto::ErrorCode;
use warren_web::{FormError, Html, Layout, Toast, Tone};

use super::browser::Browser;
use crate::api::problem::Failure;

pub(super) type Answer = Result<Response, Oops>;

/// A page.
pub(super) fn page(template: &impl Template) -> Answer {
    page_with(StatusCode::OK, template)
}

/// A page that says that what was asked for can't be.
pub(super) fn page_with(status: StatusCode, template: &impl Template) -> Answer {
    match template.render() {
        Ok(text) => Ok(Html { status, text }.into_response()),
        Err(error) => {
            Err(Failure::unavailable(&anyhow::Error::new(error).context("a page's template"))
                .into())
        }
    }
}

/// Sends the browser to another page of ours.
pub(super) fn to(path: &str) -> Answer {
    let location = HeaderValue::try_from(path).map_err(|_| Oops::not_found("page"))?;
    Ok((StatusCode::SEE_OTHER, [(LOCATION, location)]).into_response())
}

/// Sends the browser to another page of ours, which says what was done.
pub(super) fn done(path: &str, text: impl Into<String>) -> Answer {
    said(path, text.into(), Tone::Good)
}

/// Sends the browser to another page of ours, which says what could not be done; what isn't there has
/// no page to go to.
pub(super) fn failed(path: &str, failure: Failure) -> Answer {
    if failure.code() == ErrorCode::NotFound {
        return Err(failure.into());
    }
    said(path, sentence(failure.text()), Tone::Bad)
}

fn said(path: &str, text: String, tone: Tone) -> Answer {
    let mut response = to(path)?;
    response.extensions_mut().insert(Toast { text, tone });
    Ok(response)
}

/// The status of a form's page that says why it was refused.
pub(super) fn refused_status(failure: &Failure) -> StatusCode {
    use ErrorCode::{Conflict, RateLimited, Unavailable};
    match matches!(failure.code(), Conflict | RateLimited | Unavailable) {
        true => failure.status(),
        false => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

/// A refusal's text as a sentence.
pub(super) fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first: String = chars.next().into_iter().flat_map(char::to_uppercase).collect();
    let end = if text.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{first}{}{end}", chars.as_str())
}

/// Why there is no page.
#[derive(Debug, Clone)]
pub(super) enum Oops {
    /// Says so.
    Told {
        /// The answer's status.
        status: StatusCode,
        /// In a few words.
        title: &'static str,
        /// What to do.
        text: String,
    },
    /// Nobody is signed in.
    SignIn {
        /// Where he wanted to go.
        path: String,
    },
}

impl Oops {
    pub(super) fn told(status: StatusCode, title: &'static str, text: impl Into<String>) -> Self {
        Self::Told { status, title, text: text.into() }
    }

    /// Also for what is somebody else's: nobody is told that it exists.
    pub(super) fn not_found(what: &str) -> Self {
        let text = format!("There is no such {what}, or it isn't yours to see.");
        Self::told(StatusCode::NOT_FOUND, "Not found", text)
    }

    pub(super) fn forbidden() -> Self {
        Self::told(
            StatusCode::FORBIDDEN,
            "Not for your role",
            "Only admins and owners of this account may do this. Ask one of them.",
        )
    }

    pub(super) fn suspended() -> Self {
        Self::told(
            StatusCode::FORBIDDEN,
            "This account is suspended",
            "The broker's operator has suspended it: its devices are out of the mesh. Ask him; all \
             is kept as it was.",
        )
    }

    pub(super) fn forged() -> Self {
        Self::told(
            StatusCode::FORBIDDEN,
            "This form is out of date",
            "It was opened before you signed in or out. Go back, reload the page, and try again.",
        )
    }
}

impl From<FormError> for Oops {
    fn from(error: FormError) -> Self {
        let (status, text) = match error {
            FormError::Forged => return Self::forged(),
            FormError::TooLong => {
                (StatusCode::PAYLOAD_TOO_LARGE, "It is longer than any form of ours.")
            }
            FormError::Incomplete => {
                (StatusCode::REQUEST_TIMEOUT, "It came too slowly or broke off. Try again.")
            }
            FormError::Malformed => {
                (StatusCode::BAD_REQUEST, "A field is missing. Go back and try again.")
            }
        };
        Self::told(status, "This form could not be read", text)
    }
}

impl From<Failure> for Oops {
    fn from(failure: Failure) -> Self {
        if failure.code() == ErrorCode::NotFound {
            return Self::not_found("thing");
        }
        Self::told(failure.status(), "This can't be done", sentence(failure.text()))
    }
}

impl IntoResponse for Oops {
    fn into_response(self) -> Response {
        let mut response = Response::default();
        response.extensions_mut().insert(self);
        response
    }
}

#[derive(Template)]
#[template(path = "oops.html")]
struct OopsPage {
    layout: Layout,
    title: &'static str,
    text: String,
}

/// Makes a page of what has gone wrong.
pub(super) fn render_oops(browser: &Browser, mut response: Response) -> Response {
    let Some(oops) = response.extensions_mut().remove::<Oops>() else { return response };
    match oops {
        Oops::SignIn { path } => {
            to(&format!("/sign-in?next={}", encode(&path))).unwrap_or_default()
        }
        Oops::Told { status, title, text } => {
            let layout = browser.bare_layout(title);
            let page = OopsPage { layout, title, text };
            page_with(status, &page).unwrap_or_else(|_| status.into_response())
        }
    }
}

/// A path as a query's value.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_becomes_a_sentence_and_a_path_a_value() {
        assert_eq!(sentence("the name 'a' is taken"), "The name 'a' is taken.");
        assert_eq!(sentence(""), ".");
        assert_eq!(encode("/a/home?q=x&y=ü"), "/a/home%3Fq%3Dx%26y%3D%C3%BC");
    }
}
