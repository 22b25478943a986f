//! The admin API's handlers about people.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use http::StatusCode;
use warren_coord::{People, UnixTime, UserEdit, UserRecord};
use warren_proto::{ErrorCode, InvitationId, UserId};

use super::Time;
use super::people_types::{
    Invitation, InvitationCreated, Link, Membership, NewInvitation, NewPasswordLink, NewUser, User,
    UserChange, UserCreated,
};
use super::routes::{Asker, Content};
use crate::accounts::fresh_ctx;
use crate::api::problem::{ApiResult, Failure};
use crate::broker::Broker;

type Shared = State<Arc<Broker>>;

/// The routes about people.
pub(super) fn routes() -> Router<Arc<Broker>> {
    let user = "/api/v1/users/{user}";
    let account = "/api/v1/accounts/{account}";
    Router::new()
        .route("/api/v1/users", get(list).post(create))
        .route(user, get(show).patch(change).delete(remove))
        .route(&format!("{user}/password-link"), post(password_link))
        .route(&format!("{account}/members"), get(members))
        .route(&format!("{account}/members/{{user}}"), put(set_role).delete(leave))
        .route(&format!("{account}/invitations"), get(invitations).post(invite))
        .route(&format!("{account}/invitations/{{invitation}}"), delete(take_back))
}

async fn list(State(broker): Shared) -> Json<Vec<User>> {
    Json(users(&broker, |_| true))
}

async fn show(State(broker): Shared, Path(user): Path<String>) -> ApiResult<Json<User>> {
    shown(&broker, find(&broker, &user)?).map(Json)
}

async fn create(
    State(broker): Shared,
    Asker(by): Asker,
    Content(new): Content<NewUser>,
) -> ApiResult<(StatusCode, Json<UserCreated>)> {
    let NewUser { email, name, operator } = new;
    let new = warren_coord::NewUser { email, name, password: None, operator };
    let create = move |people: &People, ctx: &_| people.prepare_user(new, ctx);
    let id = broker.people.durable(by.clone(), create).await?;
    let link = move |people: &People, ctx: &_| people.prepare_password_link(id, false, ctx);
    let created = broker.people.durable(by, link).await?;
    let created = UserCreated {
        user: shown(&broker, id)?,
        link: broker.link("password", &created.secret),
        expires: Time(created.expires.0),
    };
    Ok((StatusCode::CREATED, Json(created)))
}

async fn change(
    State(broker): Shared,
    Asker(by): Asker,
    Path(user): Path<String>,
    Content(change): Content<UserChange>,
) -> ApiResult<Json<User>> {
    let user = find(&broker, &user)?;
    let UserChange { email, name, operator, suspended } = change;
    let edit = UserEdit { email, name, operator, suspended };
    let change = move |people: &People, _: &_| people.prepare_edit_user(user, edit);
    broker.people.durable(by, change).await?;
    shown(&broker, user).map(Json)
}

async fn remove(
    State(broker): Shared,
    Asker(by): Asker,
    Path(user): Path<String>,
) -> ApiResult<StatusCode> {
    let user = find(&broker, &user)?;
    broker.people.durable(by, move |people, _| people.prepare_remove_user(user)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn password_link(
    State(broker): Shared,
    Asker(by): Asker,
    Path(user): Path<String>,
    Content(NewPasswordLink { second_factor }): Content<NewPasswordLink>,
) -> ApiResult<(StatusCode, Json<Link>)> {
    let user = find(&broker, &user)?;
    let link =
        move |people: &People, ctx: &_| people.prepare_password_link(user, second_factor, ctx);
    let created = broker.people.durable(by, link).await?;
    let link = broker.link("password", &created.secret);
    Ok((StatusCode::CREATED, Json(Link { link, expires: Time(created.expires.0) })))
}

async fn members(State(broker): Shared, Path(account): Path<String>) -> ApiResult<Json<Vec<User>>> {
    let account = broker.accounts.find(&account)?.id();
    let of_account: Vec<UserId> =
        broker.people.read(|people| people.members(account).map(|it| it.user.id).collect());
    Ok(Json(users(&broker, |user| of_account.contains(&user.id))))
}

async fn set_role(
    State(broker): Shared,
    Asker(by): Asker,
    Path((account, user)): Path<(String, String)>,
    Content(Membership { role }): Content<Membership>,
) -> ApiResult<Json<User>> {
    let (account, user) = (broker.accounts.find(&account)?.id(), find(&broker, &user)?);
    let set = move |people: &People, ctx: &_| people.prepare_role(user, account, Some(role), ctx);
    broker.people.durable(by, set).await?;
    shown(&broker, user).map(Json)
}

async fn leave(
    State(broker): Shared,
    Asker(by): Asker,
    Path((account, user)): Path<(String, String)>,
) -> ApiResult<StatusCode> {
    let (account, user) = (broker.accounts.find(&account)?.id(), find(&broker, &user)?);
    let leave = move |people: &People, ctx: &_| people.prepare_role(user, account, None, ctx);
    broker.people.durable(by, leave).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn invitations(
    State(broker): Shared,
    Path(account): Path<String>,
) -> ApiResult<Json<Vec<Invitation>>> {
    let account = broker.accounts.find(&account)?.id();
    let view = |it: &warren_coord::InvitationRecord| Invitation {
        id: it.id,
        role: it.role,
        email: it.email.clone(),
        created: Time(it.created.0),
        expires: Time(it.expires.0),
    };
    let open = broker.people.read(|people| people.invitations(account, now()).map(view).collect());
    Ok(Json(open))
}

async fn invite(
    State(broker): Shared,
    Asker(by): Asker,
    Path(account): Path<String>,
    Content(new): Content<NewInvitation>,
) -> ApiResult<(StatusCode, Json<InvitationCreated>)> {
    let account = broker.accounts.find(&account)?.id();
    let NewInvitation { role, email, expires_in } = new;
    let new = warren_coord::NewInvitation { account, role, email, expires_in };
    let invite = move |people: &People, ctx: &_| people.prepare_invitation(new, ctx);
    let created = broker.people.durable(by, invite).await?;
    let created = InvitationCreated {
        id: created.id,
        link: broker.link("invitation", &created.secret),
        expires: Time(created.expires.0),
    };
    Ok((StatusCode::CREATED, Json(created)))
}

async fn take_back(
    State(broker): Shared,
    Asker(by): Asker,
    Path((account, invitation)): Path<(String, String)>,
) -> ApiResult<StatusCode> {
    let account = broker.accounts.find(&account)?.id();
    let id: InvitationId = invitation.parse().map_err(|_| Failure::not_found("invitation"))?;
    let remove = move |people: &People, _: &_| people.prepare_remove_invitation(account, id);
    broker.people.durable(by, remove).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A user by e-mail address or id.
fn find(broker: &Broker, text: &str) -> ApiResult<UserId> {
    let by_email = text.parse().ok().and_then(|email| {
        broker.people.read(|people| people.user_with_email(&email).map(|user| user.id))
    });
    let by_id = || text.parse().ok().filter(|id| broker.people.read(|it| it.user(*id).is_some()));
    by_email.or_else(by_id).ok_or_else(|| {
        Failure::new(
            ErrorCode::NotFound,
            format!("there is no user '{text}'; `warren admin users list` shows them"),
        )
    })
}

fn shown(broker: &Broker, user: UserId) -> ApiResult<User> {
    users(broker, |it| it.id == user).pop().ok_or_else(|| Failure::not_found("user"))
}

/// Users, by e-mail address.
fn users(broker: &Broker, wanted: impl Fn(&UserRecord) -> bool) -> Vec<User> {
    let accounts = broker.accounts.all();
    let name = |id| accounts.iter().find(|it| it.id() == id).map(|it| it.record().name);
    let mut users: Vec<User> = broker.people.read(|people| {
        let view = |user: &UserRecord| User {
            id: user.id,
            email: user.email.clone(),
            name: user.name.clone(),
            operator: user.operator,
            suspended: user.suspended,
            has_password: user.password.is_some(),
            has_second_factor: user.totp.is_some(),
            accounts: people
                .memberships(user.id)
                .filter_map(|it| Some((name(it.account)?, it.role)))
                .collect(),
            sessions: people.live_sessions(user.id, now()).count(),
            created: Time(user.created.0),
            last_seen: user.last_seen.map(|at| Time(at.0)),
        };
        people.users().filter(|user| wanted(user)).map(view).collect()
    });
    users.sort_by(|a, b| a.email.cmp(&b.email));
    users
}

fn now() -> UnixTime {
    UnixTime(fresh_ctx().unix.as_secs())
}
