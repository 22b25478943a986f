//! API tokens of an account.

use std::collections::{BTreeMap, BTreeSet};

use askama::Template;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::Deserialize;
use warren_coord::{ApiTokenRecord, NewApiToken, Right, Scope, TokenReach};
use warren_proto::ApiTokenId;
use warren_web::{Layout, When};

use super::answer::{Answer, Oops, done, page, page_with, sentence};
use super::browser::{Form, Nothing};
use super::frame::Section;
use super::viewer::Member;
use super::{Portal, Shared};
use crate::accounts::fresh_ctx;

const DAY: u64 = 24 * 3600;

/// How long a token may be good, as offered.
const LIFETIMES: &[(u64, &str)] =
    &[(90 * DAY, "90 days"), (30 * DAY, "30 days"), (365 * DAY, "1 year"), (0, "No end")];

struct Row {
    id: String,
    name: String,
    creator: String,
    scopes: Vec<&'static str>,
    created: When,
    used: Option<When>,
    expires: Option<When>,
    remove: String,
}

#[derive(Template)]
#[template(path = "tokens.html")]
struct Page {
    layout: Layout,
    settings: String,
    path: String,
    lifetimes: &'static [(u64, &'static str)],
    /// Field, word, what it gives.
    scopes: Vec<(String, &'static str, &'static str)>,
    tokens: Vec<Row>,
    typed_name: String,
    error: String,
}

#[derive(Template)]
#[template(path = "token_made.html")]
struct Made {
    layout: Layout,
    path: String,
    name: String,
    token: String,
    command: String,
}

fn gives(scope: Scope) -> &'static str {
    match scope {
        Scope::AccountRead => "See the account, its devices and relays",
        Scope::DevicesWrite => "Change and remove devices",
        Scope::JoinKeysWrite => "Create and delete join keys",
        Scope::RelaysWrite => "Name connection relays, create relay servers",
        Scope::PolicyRead => "See the policy",
        Scope::PolicyWrite => "Change the policy",
        Scope::PeopleRead => "See members and invitations",
        Scope::PeopleWrite => "Invite, change and remove members",
        Scope::ActivityRead => "Read Activity",
        Scope::SettingsWrite => "Change the account's settings",
        Scope::WebhooksWrite => "Create and delete webhooks",
        Scope::BrokerRead => "See the broker and all accounts",
        Scope::BrokerWrite => "Run the broker",
    }
}

/// `GET /a/{account}/tokens`
pub(super) async fn show(State(portal): Shared, member: Member) -> Answer {
    member.check(Right::ManageTokens)?;
    page(&list(&portal, &member, String::new(), String::new()))
}

fn list(portal: &Portal, member: &Member, typed_name: String, error: String) -> Page {
    let now = fresh_ctx().unix.as_secs();
    let reach = TokenReach::Account(member.account.id());
    let mut tokens: Vec<Row> = portal.broker.people.read(|people| {
        let creator = |token: &ApiTokenRecord| match token.creator {
            Some(id) => people.user(id).map(|user| user.name.clone()),
            None => Some("the operator".to_owned()),
        };
        let tokens = people.tokens(reach);
        tokens.map(|it| row(member, &it, creator(&it).unwrap_or_default(), now)).collect()
    });
    tokens.sort_by_key(|row| std::cmp::Reverse(row.created.at));
    let scopes = Scope::ALL.into_iter().filter(|scope| !scope.is_broker_wide());
    Page {
        layout: member.layout(portal, "API tokens", Section::Settings),
        settings: member.path("settings"),
        path: member.path("tokens"),
        lifetimes: LIFETIMES,
        scopes: scopes.map(|it| (field(it), it.as_str(), gives(it))).collect(),
        tokens,
        typed_name,
        error,
    }
}

/// A scope's field in the form.
fn field(scope: Scope) -> String {
    format!("scope-{}", scope.as_str().replace(':', "-"))
}

fn row(member: &Member, token: &ApiTokenRecord, creator: String, now: u64) -> Row {
    let when = |at: warren_coord::UnixTime| When { at: at.0, now };
    Row {
        id: token.id.to_string(),
        name: token.name.clone(),
        creator,
        scopes: token.scopes.iter().map(|scope| scope.as_str()).collect(),
        created: when(token.created),
        used: token.last_used.map(when),
        expires: token.expires.map(when),
        remove: member.path(&format!("tokens/{}/remove", token.id)),
    }
}

/// What a token is to be: its name, `lifetime`, and a field for each scope that is ticked.
#[derive(Deserialize)]
pub(super) struct NewToken(BTreeMap<String, String>);

/// `POST /a/{account}/tokens`
///
/// The answer shows the token, which is nowhere else; so it is no redirect.
pub(super) async fn create(
    State(portal): Shared,
    member: Member,
    Form(NewToken(fields)): Form<NewToken>,
) -> Answer {
    member.check(Right::ManageTokens)?;
    let given = |name: &str| fields.get(name).cloned().unwrap_or_default();
    let lifetime: u64 = given("lifetime").parse().unwrap_or(90 * DAY);
    let scopes: BTreeSet<Scope> =
        Scope::ALL.into_iter().filter(|scope| fields.contains_key(&field(*scope))).collect();
    let name = given("name");
    let new = NewApiToken {
        name: name.clone(),
        reach: TokenReach::Account(member.account.id()),
        scopes,
        expires_in: (lifetime > 0).then_some(lifetime),
        creator: Some(member.viewer.user),
    };
    let created = portal
        .broker
        .people
        .durable(member.viewer.by(), move |people, ctx| people.prepare_token(new, ctx))
        .await;
    let created = match created {
        Ok(created) => created,
        Err(failure) => {
            let form = list(&portal, &member, name, sentence(failure.text()));
            return page_with(StatusCode::UNPROCESSABLE_ENTITY, &form);
        }
    };
    let (url, _) = portal.broker.reached_by();
    page(&Made {
        layout: member.layout(&portal, "API token", Section::Settings),
        path: member.path("tokens"),
        name,
        command: format!(
            "curl -H 'Authorization: Bearer {}' {url}/api/v1/accounts/{}/devices",
            created.secret, member.name
        ),
        token: created.secret,
    })
}

/// `POST /a/{account}/tokens/{token}/remove`
pub(super) async fn remove(
    State(portal): Shared,
    member: Member,
    Path((_, token)): Path<(String, String)>,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    member.check(Right::ManageTokens)?;
    let id: ApiTokenId = token.parse().map_err(|_| Oops::not_found("API token"))?;
    let reach = TokenReach::Account(member.account.id());
    let outcome = portal
        .broker
        .people
        .durable(member.viewer.by(), move |people, _| people.prepare_remove_token(reach, id))
        .await;
    match outcome {
        Ok(()) => done(&member.path("tokens"), "The token is deleted."),
        Err(failure) => Err(failure.into()),
    }
}
