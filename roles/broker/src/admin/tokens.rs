//! The API's operations on API tokens. No token gives the right to them: it must not make itself
//! others.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use warren_coord::{ApiTokenRecord, NewApiToken as CoordNewApiToken, People, Right, TokenReach};
use warren_proto::ApiTokenId;

use super::Time;
use super::guard::Granted;
use super::operation::Operation;
use super::paged::{PageQuery, Query};
use super::routes::Content;
use crate::api::problem::{ApiResult, Failure};
use crate::broker::Broker;
use crate::people::Grant;

pub use warren_coord::Scope;

type Shared = State<Arc<Broker>>;

/// An API token, without the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApiToken {
    /// Its id.
    pub id: ApiTokenId,
    /// What it is called.
    pub name: String,
    /// What it is good for.
    pub scopes: BTreeSet<Scope>,
    /// Who made it; absent: somebody at the broker's local socket.
    pub creator: Option<warren_proto::UserId>,
    /// When it was made.
    pub created: Time,
    /// From when on it isn't accepted.
    pub expires: Option<Time>,
    /// When it was used last.
    pub last_used: Option<Time>,
}

/// Asks for a new API token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewApiToken {
    /// What it is called.
    pub name: String,
    /// What it is good for.
    pub scopes: BTreeSet<Scope>,
    /// Seconds until it expires; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
}

/// A new API token; the secret is nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApiTokenCreated {
    /// Its id.
    pub id: ApiTokenId,
    /// What to send in the header `Authorization: Bearer`: a secret.
    pub token: String,
    /// From when on it isn't accepted.
    pub expires: Option<Time>,
}

/// Operations on API tokens, an account's and the broker's.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::get("/accounts/{account}/tokens", "listTokens", "API tokens", list)
            .needs(Right::ManageTokens)
            .lists::<ApiToken>(),
        Operation::post("/accounts/{account}/tokens", "createToken", "Makes an API token", create)
            .needs(Right::ManageTokens)
            .takes::<NewApiToken>()
            .creates::<ApiTokenCreated>(),
        Operation::delete(
            "/accounts/{account}/tokens/{token}",
            "deleteToken",
            "Deletes an API token; it is refused at once",
            remove,
        )
        .needs(Right::ManageTokens),
        Operation::get("/tokens", "listBrokerTokens", "Operators' API tokens", list_shared)
            .needs(Right::ManageBroker)
            .lists::<ApiToken>(),
        Operation::post(
            "/tokens",
            "createBrokerToken",
            "Makes an API token for the broker and all accounts",
            create_shared,
        )
        .needs(Right::ManageBroker)
        .takes::<NewApiToken>()
        .creates::<ApiTokenCreated>(),
        Operation::delete(
            "/tokens/{token}",
            "deleteBrokerToken",
            "Deletes an operator's API token; it is refused at once",
            remove_shared,
        )
        .needs(Right::ManageBroker),
    ]
}

async fn list(
    State(broker): Shared,
    Path(account): Path<String>,
    Query(page): Query<PageQuery>,
) -> ApiResult<Response> {
    shown(&broker, reach(&broker, &account)?, &page)
}

async fn list_shared(State(broker): Shared, Query(page): Query<PageQuery>) -> ApiResult<Response> {
    shown(&broker, TokenReach::Broker, &page)
}

async fn create(
    State(broker): Shared,
    Granted(grant): Granted,
    Path(account): Path<String>,
    Content(new): Content<NewApiToken>,
) -> ApiResult<(StatusCode, Json<ApiTokenCreated>)> {
    let reach = reach(&broker, &account)?;
    make(&broker, &grant, reach, new).await
}

async fn create_shared(
    State(broker): Shared,
    Granted(grant): Granted,
    Content(new): Content<NewApiToken>,
) -> ApiResult<(StatusCode, Json<ApiTokenCreated>)> {
    make(&broker, &grant, TokenReach::Broker, new).await
}

async fn remove(
    State(broker): Shared,
    Granted(grant): Granted,
    Path((account, token)): Path<(String, String)>,
) -> ApiResult<StatusCode> {
    let reach = reach(&broker, &account)?;
    delete(&broker, &grant, reach, &token).await
}

async fn remove_shared(
    State(broker): Shared,
    Granted(grant): Granted,
    Path(token): Path<String>,
) -> ApiResult<StatusCode> {
    delete(&broker, &grant, TokenReach::Broker, &token).await
}

fn reach(broker: &Broker, account: &str) -> ApiResult<TokenReach> {
    Ok(TokenReach::Account(broker.accounts.find(account)?.id()))
}

fn shown(broker: &Broker, reach: TokenReach, page: &PageQuery) -> ApiResult<Response> {
    let view = |it: ApiTokenRecord| ApiToken {
        id: it.id,
        name: it.name,
        scopes: it.scopes,
        creator: it.creator,
        created: Time(it.created.0),
        expires: it.expires.map(|at| Time(at.0)),
        last_used: it.last_used.map(|at| Time(at.0)),
    };
    let tokens: Vec<ApiToken> =
        broker.people.read(|people| people.tokens(reach).map(view).collect());
    page.of(tokens, |it| format!("{:020} {}", it.created.0, it.id))
}

async fn make(
    broker: &Broker,
    grant: &Grant,
    reach: TokenReach,
    new: NewApiToken,
) -> ApiResult<(StatusCode, Json<ApiTokenCreated>)> {
    let NewApiToken { name, scopes, expires_in } = new;
    let new = CoordNewApiToken { name, reach, scopes, expires_in, creator: grant.user() };
    let create = move |people: &People, ctx: &_| people.prepare_token(new, ctx);
    let created = broker.people.durable(grant.by(), create).await?;
    let created = ApiTokenCreated {
        id: created.id,
        token: created.secret,
        expires: created.expires.map(|at| Time(at.0)),
    };
    Ok((StatusCode::CREATED, Json(created)))
}

async fn delete(
    broker: &Broker,
    grant: &Grant,
    reach: TokenReach,
    token: &str,
) -> ApiResult<StatusCode> {
    let id: ApiTokenId = token.parse().map_err(|_| Failure::not_found("API token"))?;
    let remove = move |people: &People, _: &_| people.prepare_remove_token(reach, id);
    broker.people.durable(grant.by(), remove).await?;
    Ok(StatusCode::NO_CONTENT)
}
