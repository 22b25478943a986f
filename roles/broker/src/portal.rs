//! The portal: what people see of the broker in a browser.
//!
//! One file per page, its template beside it. A handler takes who asks ([`viewer::Member`] for the
//! pages of an account), looks at or changes the state through the same functions as the API, and
//! answers with a page or a redirect. What has gone wrong is an [`answer::Oops`]. [`surround`]
//! stands around all of it.

mod access;
mod activity;
mod answer;
mod browser;
mod device;
mod devices;
mod edge;
mod edges;
mod events;
mod forgotten;
mod frame;
mod join;
mod join_request;
mod links;
mod map;
mod operator;
mod owner;
mod paths;
mod profile;
mod reach;
mod reference;
mod relays;
mod settings;
mod sign_in;
mod single_sign_on;
mod tenant;
mod tokens;
mod user;
mod users;
mod viewer;
mod webhooks;

use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use ipnet::IpNet;
use warren_web::cookie::Jar;
use warren_web::{Layout, Shield, assets, finish, takes_gzip};

use crate::api::problem::Failure;
use crate::broker::Broker;
use crate::config::{HTTPS_PORT, Limits, PublicUrl};
use crate::oidc::CALLBACK;
use answer::{Answer, Oops, page, to};
use browser::Browser;
use viewer::Viewer;

/// What the pages share.
pub(crate) struct Portal {
    broker: Arc<Broker>,
    limits: Arc<Limits>,
    trusted_proxies: Arc<[IpNet]>,
    jar: Jar,
    shield: Shield,
    /// The origin under which browsers know us.
    site: String,
}

impl Portal {
    /// What people call who vouches for them, where somebody does.
    fn sso(&self) -> Option<String> {
        self.broker.oidc.as_ref().map(|oidc| oidc.name())
    }

    /// What a device's owner is called; nothing where it has none.
    fn owner(&self, device: &warren_coord::DeviceView) -> String {
        let Some(owner) = device.owner else { return String::new() };
        self.broker
            .people
            .read(|people| people.user(owner).map(|user| user.name.clone()))
            .unwrap_or_default()
    }
}

type Shared = State<Arc<Portal>>;

/// The portal's routes.
pub(crate) fn router(
    broker: Arc<Broker>,
    limits: Arc<Limits>,
    trusted_proxies: Arc<[IpNet]>,
    url: &PublicUrl,
) -> Router {
    let portal = Arc::new(Portal {
        broker,
        limits,
        trusted_proxies,
        jar: Jar { tls: url.https },
        shield: Shield { strict_transport: url.https && url.port == HTTPS_PORT },
        site: url.to_string(),
    });
    Router::new()
        .route("/", get(home))
        .route("/theme", post(frame::change_theme))
        .route("/join", get(join::welcome))
        .merge(strangers())
        .merge(persons())
        .merge(accounts())
        .fallback(unknown)
        .layer(axum::middleware::from_fn_with_state(portal.clone(), surround))
        .route(&format!("{}{{name}}", assets::PREFIX), get(asset))
        .with_state(portal)
}

/// For who isn't signed in.
fn strangers() -> Router<Arc<Portal>> {
    Router::new()
        .route("/sign-in", get(sign_in::show).post(sign_in::sign_in))
        .route("/sign-in/code", post(sign_in::code))
        .route("/sign-in/sso", post(single_sign_on::begin))
        .route(CALLBACK, get(single_sign_on::finish))
        .route("/set-up", get(links::set_up).post(links::set_up_with))
        .route("/set-up/operator", post(links::create_operator))
        .route("/invitation", get(links::invitation).post(links::invitation_with))
        .route("/invitation/accept", post(links::accept))
        .route("/invitation/new", post(links::accept_as_new))
        .route("/password", get(links::password).post(links::password_with))
        .route("/password/new", post(links::set_password))
        .route("/password/forgot", get(forgotten::show).post(forgotten::ask))
}

/// About oneself.
fn persons() -> Router<Arc<Portal>> {
    Router::new()
        .route("/sign-out", post(sign_in::sign_out))
        .route("/profile", get(profile::show))
        .route("/join/request", get(join_request::show).post(join_request::decide))
        .route("/api", get(reference::show))
        .route("/operator", get(operator::show))
        .route("/operator/accounts", post(operator::create_account))
        .route("/operator/accounts/{account}", get(tenant::show).post(tenant::limit))
        .route("/operator/accounts/{account}/suspend", post(tenant::suspend))
        .route("/operator/accounts/{account}/resume", post(tenant::resume))
        .route("/operator/accounts/{account}/delete", post(tenant::delete))
        .route("/operator/users/{user}", get(user::show))
        .route("/operator/users/{user}/operator", post(user::appoint))
        .route("/operator/users/{user}/suspend", post(user::suspend))
        .route("/operator/users/{user}/password", post(user::password_link))
        .route("/operator/users/{user}/delete", post(user::delete))
        .route("/profile/name", post(profile::rename))
        .route("/profile/password", post(profile::change_password))
        .route("/profile/totp", get(profile::begin_totp).post(profile::confirm_totp))
        .route("/profile/totp/off", post(profile::end_totp))
        .route("/profile/recovery-codes", post(profile::new_codes))
        .route("/profile/sso/link", post(single_sign_on::link))
        .route("/profile/sso/unlink", post(single_sign_on::unlink))
        .route("/profile/sessions/end", post(profile::end_sessions))
        .route("/profile/sessions/{session}/end", post(profile::end_session))
}

/// About an account.
fn accounts() -> Router<Arc<Portal>> {
    let device = "/a/{account}/devices/{device}";
    let user = "/a/{account}/users/{user}";
    let webhook = "/a/{account}/webhooks/{webhook}";
    let opened = "/a/{account}/edges/{device}/{kind}";
    Router::new()
        .route("/a/{account}", get(account_home))
        .route("/a/{account}/events", get(events::stream))
        .route("/a/{account}/devices", get(devices::show))
        .route(device, get(device::show))
        .route(&format!("{device}/rename"), post(device::rename))
        .route(&format!("{device}/tags"), post(device::tag))
        .route(&format!("{device}/owner"), post(owner::give))
        .route(&format!("{device}/endpoint"), post(device::pin_endpoint))
        .route(&format!("{device}/lifetime"), post(device::set_lifetime))
        .route(&format!("{device}/approve"), post(device::approve))
        .route(&format!("{device}/refuse"), post(device::refuse))
        .route(&format!("{device}/renew"), post(device::renew))
        .route(&format!("{device}/reach"), post(reach::reach))
        .route(&format!("{device}/expire"), post(device::expire))
        .route(&format!("{device}/remove"), post(device::remove))
        .route("/a/{account}/join", get(join::show).post(join::create))
        .route("/a/{account}/join/{key}/remove", post(join::remove))
        .route("/a/{account}/map", get(map::show))
        .route("/a/{account}/edges", get(edges::show))
        .route("/a/{account}/edges/{device}", get(edge::show))
        .route("/a/{account}/edges/{device}/ask", post(edge::ask))
        .route("/a/{account}/edges/{device}/wake", post(edge::wake))
        .route(opened, post(edge::add))
        .route(&format!("{opened}/{{item}}"), post(edge::change))
        .route(&format!("{opened}/{{item}}/switch"), post(edge::switch))
        .route(&format!("{opened}/{{item}}/remove"), post(edge::remove))
        .route("/a/{account}/relays", get(relays::show).post(relays::create))
        .route("/a/{account}/relays/{relay}/remove", post(relays::remove))
        .route("/a/{account}/access", get(access::show).post(access::change))
        .route("/a/{account}/activity", get(activity::show))
        .route("/a/{account}/activity.csv", get(activity::csv))
        .route("/a/{account}/activity.jsonl", get(activity::json_lines))
        .route("/a/{account}/activity/keep", post(activity::keep))
        .route("/a/{account}/users", get(users::show).post(users::invite))
        .route(&format!("{user}/role"), post(users::change_role))
        .route(&format!("{user}/remove"), post(users::remove))
        .route("/a/{account}/users/invitations/{invitation}/remove", post(users::take_back))
        .route("/a/{account}/settings", get(settings::show))
        .route("/a/{account}/settings/relays", post(settings::change_relays))
        .route("/a/{account}/settings/admission", post(settings::change_admission))
        .route("/a/{account}/webhooks", get(webhooks::show).post(webhooks::create))
        .route(webhook, get(webhooks::one))
        .route(&format!("{webhook}/switch"), post(webhooks::switch))
        .route(&format!("{webhook}/rotate"), post(webhooks::rotate))
        .route(&format!("{webhook}/test"), post(webhooks::test))
        .route(&format!("{webhook}/remove"), post(webhooks::remove))
        .route(&format!("{webhook}/deliveries/{{delivery}}/send-again"), post(webhooks::send_again))
        .route("/a/{account}/tokens", get(tokens::show).post(tokens::create))
        .route("/a/{account}/tokens/{token}/remove", post(tokens::remove))
}

/// Reads who is there before a request, and gives its answer cookies, headers and body after it.
async fn surround(State(portal): Shared, mut request: Request, next: Next) -> Response {
    let browser = Browser::read(&portal.jar, &request);
    let headers = request.headers().clone();
    request.extensions_mut().insert(browser.clone());
    let response = answer::render_oops(&browser, next.run(request).await);
    let response = browser.remember(&portal.jar, response);
    finish(&headers, response, portal.shield)
}

async fn asset(State(portal): Shared, Path(name): Path<String>, headers: HeaderMap) -> Response {
    finish(&headers, assets::serve(&name, takes_gzip(&headers)), portal.shield)
}

/// Whatever isn't there: programs are told so in their words.
async fn unknown(headers: HeaderMap) -> Response {
    let accepts = headers.get(http::header::ACCEPT).and_then(|value| value.to_str().ok());
    if accepts.is_some_and(|types| types.contains("text/html")) {
        return Oops::not_found("page").into_response();
    }
    Failure::not_found("page").into_response()
}

/// What somebody sees who belongs to no account.
#[derive(Template)]
#[template(path = "no_account.html")]
struct NoAccount {
    layout: Layout,
}

/// The first of one's accounts.
async fn home(State(portal): Shared, viewer: Viewer) -> Answer {
    match viewer.accounts(&portal).into_iter().next() {
        Some((account, _)) => to(&format!("/a/{}/devices", account.record().name)),
        None if viewer.is_operator => to("/operator"),
        None => page(&NoAccount { layout: viewer.layout(&portal, "No account yet", None) }),
    }
}

async fn account_home(Path(account): Path<String>) -> Answer {
    to(&format!("/a/{account}/devices"))
}
