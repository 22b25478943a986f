//! What a browser says by itself: its secret, its appearance, what it is still to be told.

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::request::Parts;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use warren_coord::{Actor, By, ClientInfo, SESSION_LIFETIME, SecretHash};
use warren_proto::WebSessionId;
use warren_web::cookie::{Jar, Life};
use warren_web::{Csrf, Fields, Layout, Theme, Toast, Tone, is_same_origin};

use super::Portal;
use super::answer::Oops;
use super::viewer::Again;
use crate::api::extract::client_ip;
use crate::api::problem::Failure;

/// The cookie with the session's secret.
pub(super) const SESSION: &str = "session";
/// The cookie that makes forms' tokens for who isn't signed in.
const VISIT: &str = "visit";
const THEME: &str = "theme";
const TOAST: &str = "toast";

/// What a form has at most, unless it says more.
const LONGEST_FORM: usize = 128 * 1024;
const LONGEST_TOAST: usize = 500;
const YEAR: u64 = 365 * 24 * 3600;
const TOAST_LIFE: u64 = 60;

/// A browser, as its request shows it.
#[derive(Debug, Clone)]
pub(super) struct Browser {
    pub(super) csrf: Csrf,
    /// The hash of its cookie's secret.
    pub(super) known_by: SecretHash,
    pub(super) theme: Theme,
    pub(super) toast: Option<Toast>,
    /// Path and query of the page.
    pub(super) path: String,
    /// A visit's secret that it is to keep.
    fresh_visit: Option<String>,
    /// The script asks for what has changed, of its own accord.
    pub(super) is_live: bool,
    /// A script asks; nobody reads toasts.
    is_scripted: bool,
}

impl Browser {
    pub(super) fn read(jar: &Jar, request: &Request) -> Self {
        let headers = request.headers();
        let secret = jar.read(headers, SESSION).or_else(|| jar.read(headers, VISIT));
        let fresh_visit = match secret {
            Some(_) => None,
            None => Some(URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())),
        };
        let secret = secret.or(fresh_visit.as_deref()).unwrap_or_default();
        let (csrf, known_by) = (Csrf::new(secret), SecretHash::of(secret));
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Self {
            csrf,
            known_by,
            theme: jar.read(headers, THEME).map(Theme::from_word).unwrap_or_default(),
            toast: jar.read(headers, TOAST).and_then(read_toast),
            path,
            fresh_visit,
            is_live: headers.contains_key("warren-live"),
            is_scripted: headers.contains_key("warren-live") || headers.contains_key("hx-request"),
        }
    }

    /// What surrounds a page that nobody need be signed in for.
    pub(super) fn bare_layout(&self, title: &str) -> Layout {
        Layout {
            title: title.to_owned(),
            theme: self.theme,
            nav: Vec::new(),
            accounts: Vec::new(),
            person: None,
            toast: self.toast.clone(),
            live: None,
            path: self.path.clone(),
            csrf: self.csrf.clone(),
        }
    }

    /// Has the browser keep what the answer says, and forget what it has been told.
    pub(super) fn remember(&self, jar: &Jar, mut response: Response) -> Response {
        let is_page = response.headers().contains_key(CONTENT_TYPE) && !self.is_scripted;
        let toast = response.extensions_mut().remove::<Toast>();
        let theme = response.extensions_mut().remove::<Theme>();
        let session = response.extensions_mut().remove::<SessionCookie>();
        let headers = response.headers_mut();
        if let Some(secret) = &self.fresh_visit {
            jar.set(headers, VISIT, secret, Life::Browser);
        }
        match session {
            Some(SessionCookie::Keep(secret)) => {
                jar.set(headers, SESSION, &secret, Life::Seconds(SESSION_LIFETIME));
            }
            Some(SessionCookie::Forget) => jar.forget(headers, SESSION),
            None => {}
        }
        if let Some(theme) = theme {
            jar.set(headers, THEME, theme.word(), Life::Seconds(YEAR));
        }
        match toast {
            Some(toast) => jar.set(headers, TOAST, &write_toast(&toast), Life::Seconds(TOAST_LIFE)),
            None if is_page && self.toast.is_some() => jar.forget(headers, TOAST),
            None => {}
        }
        response
    }
}

fn write_toast(toast: &Toast) -> String {
    let mark = if toast.is_bad() { '-' } else { '+' };
    let text = &toast.text[..toast.text.floor_char_boundary(LONGEST_TOAST)];
    URL_SAFE_NO_PAD.encode(format!("{mark}{text}"))
}

fn read_toast(value: &str) -> Option<Toast> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(value).ok()?).ok()?;
    let tone = if text.starts_with('-') { Tone::Bad } else { Tone::Good };
    Some(Toast { text: text.get(1..)?.to_owned(), tone })
}

impl<S: Sync> FromRequestParts<S> for Browser {
    type Rejection = Oops;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Oops> {
        parts.extensions.get().cloned().ok_or_else(|| {
            Failure::unavailable(&anyhow::anyhow!("a request came by no browser")).into()
        })
    }
}

/// Somebody who isn't signed in, or doesn't need to be.
pub(super) struct Visitor {
    pub(super) browser: Browser,
    pub(super) client: ClientInfo,
    /// The session that the browser has, if one.
    pub(super) session: Option<WebSessionId>,
}

impl Visitor {
    /// The holder of a one-time link, as Activity names him.
    pub(super) fn by_link(&self) -> By {
        By { actor: Actor::Link, source: Some(self.client.address) }
    }
}

impl FromRequestParts<Arc<Portal>> for Visitor {
    type Rejection = Oops;

    async fn from_request_parts(parts: &mut Parts, portal: &Arc<Portal>) -> Result<Self, Oops> {
        let browser = Browser::from_request_parts(parts, portal).await?;
        let address = client_ip(parts, &portal.trusted_proxies)?;
        let agent = parts.headers.get(USER_AGENT).and_then(|value| value.to_str().ok());
        let user_agent = agent.unwrap_or_default().to_owned();
        let secret = portal.jar.read(&parts.headers, SESSION);
        let session = secret.and_then(|secret| portal.broker.people.session(secret));
        let session = session.map(|(session, _)| session.id);
        Ok(Self { browser, client: ClientInfo { address, user_agent }, session })
    }
}

/// What becomes of the session's cookie.
#[derive(Clone)]
pub(super) enum SessionCookie {
    /// The browser keeps this secret.
    Keep(String),
    /// It forgets the one it has.
    Forget,
}

/// A form of ours, of at most so many bytes.
pub(super) struct Form<T, const LONGEST: usize = LONGEST_FORM>(pub(super) T);

impl<T: DeserializeOwned, const LONGEST: usize> FromRequest<Arc<Portal>> for Form<T, LONGEST> {
    type Rejection = Oops;

    async fn from_request(request: Request, portal: &Arc<Portal>) -> Result<Self, Oops> {
        let (mut parts, body) = request.into_parts();
        if !is_same_origin(&parts, &portal.site) {
            return Err(Oops::forged());
        }
        let browser = Browser::from_request_parts(&mut parts, portal).await?;
        let patience = portal.limits.request_timeout;
        let fields = Fields::read(body, LONGEST, patience).await?;
        Again::ask(&parts.extensions, portal)?;
        Ok(Self(fields.parse(&browser.csrf, parts.uri.path())?))
    }
}

/// A form that says nothing but 'do it'.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Nothing {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toast_survives_its_cookie() {
        for tone in [Tone::Good, Tone::Bad] {
            let toast = Toast { text: "Renamed to „bär“; <b>".to_owned(), tone };
            assert_eq!(read_toast(&write_toast(&toast)), Some(toast));
        }
        let long = Toast { text: "ü".repeat(1000), tone: Tone::Good };
        assert!(write_toast(&long).len() < 1000);
        assert_eq!(read_toast(""), None);
        assert_eq!(read_toast("%%%"), None);
    }
}
