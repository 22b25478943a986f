//! What stands around every request: who asks, whether a page of ours made him, and what his browser is
//! told beside the answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::stream::unfold;
use http::header::{CONTENT_TYPE, HOST, LOCATION};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::de::DeserializeOwned;
use warren_edge::{EdgeTools, Listing};
use warren_web::cookie::{Jar, Life};
use warren_web::{
    Csrf, Fields, FormError, Html, Layout, Shield, Theme, Toast, Tone, assets, finish,
    is_same_origin, takes_gzip,
};

use crate::desk::{Asker, Refusal, Why};
use crate::listen::Source;
use crate::site::Site;
use crate::{api, pages, words};

/// Inside the tunnel there is no TLS: cookies have plain names.
const JAR: Jar = Jar { tls: false };
const THEME: &str = "theme";
const TOAST: &str = "toast";
const YEAR: u64 = 365 * 24 * 3600;
const TOAST_LIFE: u64 = 60;
const LONGEST_TOAST: usize = 500;
const LONGEST_FORM: usize = 32 * 1024;
const PATIENCE: Duration = Duration::from_secs(15);
const SHIELD: Shield = Shield { strict_transport: false };

pub(crate) type Shared = State<Arc<Site>>;

/// Everything that is served.
pub(crate) fn router(site: Arc<Site>) -> Router {
    let own = from_fn_with_state(Arc::clone(&site), surround);
    Router::new()
        .merge(pages::routes())
        .fallback(unknown)
        .merge(api::routes())
        .route(&format!("{}{{name}}", assets::PREFIX), get(asset))
        .layer(own)
        .with_state(site)
}

/// Lets in who is known and comes to us by our name.
async fn surround(State(site): Shared, mut request: Request, next: Next) -> Response {
    let headers = request.headers().clone();
    let place = site.place();
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let source = request.extensions().get::<Source>().copied();
    let asker = source.and_then(|Source(ip)| place.asker(ip));
    let visitor = Visitor::read(&site, asker, &request);
    let is_ours = place.is_called(host, site.port);
    let is_api = request.uri().path().starts_with("/api/");
    let response = match (&visitor, is_ours) {
        (_, false) => Oops::told(
            StatusCode::MISDIRECTED_REQUEST,
            "Not by this name",
            "An edge's pages are opened by its name in the mesh, or its mesh address.",
        )
        .into_response(),
        (None, true) => Oops::told(
            StatusCode::FORBIDDEN,
            "Not for you",
            "Only devices of this account open these pages, each by its own mesh address. Join the \
             account on this device, or ask an admin of it.",
        )
        .into_response(),
        (Some(visitor), true) if !visitor.asker.manages && !is_for_all(request.uri().path()) => {
            Oops::from(site.check(&visitor.asker).err().unwrap_or_else(|| {
                Refusal::new(Why::Forbidden, "who manages this edge has changed: try again")
            }))
            .into_response()
        }
        (Some(visitor), true) => {
            request.extensions_mut().insert(visitor.clone());
            next.run(request).await
        }
    };
    let visitor = visitor.unwrap_or_else(|| Visitor::nobody(&headers));
    let response = render_oops(&visitor, is_api, response);
    finish(&headers, visitor.remember(response), SHIELD)
}

/// What whoever reaches the pages may see: that there is an edge, and not what stands behind it.
fn is_for_all(path: &str) -> bool {
    let is_asset = path.starts_with(assets::PREFIX);
    is_asset || matches!(path, "/" | "/events" | "/theme" | "/api/v1/edge" | "/api/v1/openapi.json")
}

async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    assets::serve(&name, takes_gzip(&headers))
}

async fn unknown() -> Oops {
    Oops::told(StatusCode::NOT_FOUND, "Not found", "There is no such page on this edge.")
}

/// A list of all devices as the body of an answer, which is made as fast as it is taken: nobody who is slow
/// keeps the devices from others.
pub(crate) fn pieces(tools: &EdgeTools, listing: Listing) -> Body {
    let stream = unfold((tools.clone(), listing), |(tools, mut listing)| async move {
        let piece = tools.known(|inventory| listing.next(inventory))?;
        Some((Ok::<_, Infallible>(piece), (tools, listing)))
    });
    Body::from_stream(stream)
}

/// Who asks, and what his browser says by itself.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    pub(crate) asker: Asker,
    pub(crate) csrf: Csrf,
    theme: Theme,
    toast: Option<Toast>,
    /// Path and query of the page.
    path: String,
    /// The script asks for what has changed; nobody reads toasts.
    is_live: bool,
}

impl Visitor {
    fn read(site: &Site, asker: Option<Asker>, request: &Request) -> Option<Self> {
        let asker = asker?;
        let headers = request.headers();
        let csrf = site.csrf(&asker);
        Some(Self {
            toast: JAR.read(headers, TOAST).and_then(|value| read_toast(&csrf, value)),
            theme: theme(headers),
            path: request.uri().path_and_query().map_or("/", |it| it.as_str()).to_owned(),
            is_live: headers.contains_key("warren-live") || headers.contains_key("hx-request"),
            asker,
            csrf,
        })
    }

    fn nobody(headers: &HeaderMap) -> Self {
        let name = warren_proto::DeviceName::from_free_text("nobody");
        let asker = Asker { device: warren_proto::DeviceId(0), name, manages: false };
        let (csrf, theme) = (Csrf::new(""), theme(headers));
        Self { asker, csrf, theme, toast: None, path: "/".to_owned(), is_live: true }
    }

    /// What surrounds a page.
    pub(crate) fn layout(&self, title: String) -> Layout {
        Layout {
            title,
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
    fn remember(&self, mut response: Response) -> Response {
        let is_page = response.headers().contains_key(CONTENT_TYPE) && !self.is_live;
        let toast = response.extensions_mut().remove::<Toast>();
        let theme = response.extensions_mut().remove::<Theme>();
        let headers = response.headers_mut();
        if let Some(theme) = theme {
            JAR.set(headers, THEME, theme.word(), Life::Seconds(YEAR));
        }
        match toast {
            Some(toast) => {
                let value = write_toast(&self.csrf, &toast);
                JAR.set(headers, TOAST, &value, Life::Seconds(TOAST_LIFE));
            }
            None if is_page && self.toast.is_some() => JAR.forget(headers, TOAST),
            None => {}
        }
        response
    }
}

fn theme(headers: &HeaderMap) -> Theme {
    JAR.read(headers, THEME).map(Theme::from_word).unwrap_or_default()
}

/// With a token: the pages of LAN devices at other ports of this host set cookies for it, too.
fn write_toast(csrf: &Csrf, toast: &Toast) -> String {
    let mark = if toast.is_bad() { '-' } else { '+' };
    let text = &toast.text[..toast.text.floor_char_boundary(LONGEST_TOAST)];
    let text = format!("{mark}{text}");
    format!("{}.{}", csrf.token(&text), URL_SAFE_NO_PAD.encode(text))
}

fn read_toast(csrf: &Csrf, value: &str) -> Option<Toast> {
    let (token, text) = value.split_once('.')?;
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let tone = if text.starts_with('-') { Tone::Bad } else { Tone::Good };
    csrf.admits(&text, token).then(|| Some(Toast { text: text.get(1..)?.to_owned(), tone }))?
}

impl<S: Sync> FromRequestParts<S> for Visitor {
    type Rejection = Oops;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Oops> {
        parts.extensions.get().cloned().ok_or_else(|| {
            Oops::told(StatusCode::FORBIDDEN, "Not for you", "Who asks isn't known.")
        })
    }
}

/// A form of ours.
pub(crate) struct Form<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<Site>> for Form<T> {
    type Rejection = Oops;

    async fn from_request(request: Request, site: &Arc<Site>) -> Result<Self, Oops> {
        let (mut parts, body) = request.into_parts();
        let visitor = Visitor::from_request_parts(&mut parts, site).await?;
        if !is_same_origin(&parts, "") {
            return Err(FormError::Forged.into());
        }
        let fields = Fields::read(body, LONGEST_FORM, PATIENCE).await?;
        Ok(Self(fields.parse(&visitor.csrf, parts.uri.path())?))
    }
}

/// A form that says nothing but 'do it'.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Nothing {}

pub(crate) type Answer = Result<Response, Oops>;

/// A page.
pub(crate) fn page(template: &impl Template) -> Answer {
    page_with(StatusCode::OK, template)
}

pub(crate) fn page_with(status: StatusCode, template: &impl Template) -> Answer {
    match template.render() {
        Ok(text) => Ok(Html { status, text }.into_response()),
        Err(error) => {
            tracing::error!(%error, "a page's template");
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Err(Oops::told(status, "This page can't be shown", "The edge's log says why."))
        }
    }
}

/// Sends the browser to another page of ours.
pub(crate) fn to(path: &str) -> Answer {
    let location = HeaderValue::try_from(path).unwrap_or(HeaderValue::from_static("/"));
    Ok((StatusCode::SEE_OTHER, [(LOCATION, location)]).into_response())
}

/// Sends the browser to another page of ours, which says how it went.
pub(crate) fn told(path: &str, result: Result<String, Refusal>) -> Answer {
    let toast = match result {
        Ok(text) => Toast { text, tone: Tone::Good },
        Err(refusal) if refusal.why == Why::Forbidden => return Err(refusal.into()),
        Err(refusal) => Toast { text: words::sentence(&refusal.text), tone: Tone::Bad },
    };
    let mut response = to(path)?;
    response.extensions_mut().insert(toast);
    Ok(response)
}

/// Why there is no page.
#[derive(Debug, Clone)]
pub(crate) struct Oops {
    status: StatusCode,
    title: &'static str,
    text: String,
}

impl Oops {
    pub(crate) fn told(status: StatusCode, title: &'static str, text: impl Into<String>) -> Self {
        Self { status, title, text: text.into() }
    }
}

impl From<Refusal> for Oops {
    fn from(refusal: Refusal) -> Self {
        let title = match refusal.why {
            Why::Forbidden => "Not for this device",
            Why::NotFound => "Not found",
            Why::BrokerAway => "The broker is away",
            Why::Invalid | Why::Busy | Why::Failed => "This can't be done",
        };
        Self::told(status(refusal.why), title, words::sentence(&refusal.text))
    }
}

/// The status of an answer that says why not.
pub(crate) fn status(why: Why) -> StatusCode {
    match why {
        Why::BrokerAway => StatusCode::SERVICE_UNAVAILABLE,
        Why::Forbidden => StatusCode::FORBIDDEN,
        Why::NotFound => StatusCode::NOT_FOUND,
        Why::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        Why::Busy => StatusCode::CONFLICT,
        Why::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<FormError> for Oops {
    fn from(error: FormError) -> Self {
        let (status, text) = match error {
            FormError::Forged => (
                StatusCode::FORBIDDEN,
                "It is out of date, or another site's. Go back, reload the page, and try again.",
            ),
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
        Self::told(status, "This form could not be taken", text)
    }
}

impl IntoResponse for Oops {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
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

/// Makes a page of what has gone wrong; for programs, a problem.
fn render_oops(visitor: &Visitor, is_api: bool, mut response: Response) -> Response {
    let Some(Oops { status, title, text }) = response.extensions_mut().remove() else {
        return response;
    };
    if is_api {
        return api::problem(status, text);
    }
    let page = OopsPage { layout: visitor.layout(title.to_owned()), title, text };
    page_with(status, &page).unwrap_or_else(|_| status.into_response())
}

/// A path of ours, or the first page: nobody is sent elsewhere.
pub(crate) fn inside(path: &str) -> &str {
    let is_plain = path.chars().all(|c| c != '\\' && !c.is_control());
    if is_plain && path.starts_with('/') && !path.starts_with("//") { path } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toast_is_ours_or_none() {
        let (ours, other) = (Csrf::new("a"), Csrf::new("b"));
        for tone in [Tone::Good, Tone::Bad] {
            let toast = Toast { text: "Opened „Tür“; <b>".to_owned(), tone };
            let value = write_toast(&ours, &toast);
            assert_eq!(read_toast(&ours, &value), Some(toast));
            assert_eq!(read_toast(&other, &value), None);
        }
        let planted = format!("x.{}", URL_SAFE_NO_PAD.encode("+Sign in at evil.example"));
        assert_eq!(read_toast(&ours, &planted), None);
        assert_eq!(inside("/devices?q=x"), "/devices?q=x");
        assert_eq!(inside("//evil.example"), "/");
    }
}
