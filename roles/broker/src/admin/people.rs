//! The API's operations on people.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;
use warren_coord::{People, Right, Role, UnixTime, UserEdit, UserRecord};
use warren_proto::{ErrorCode, InvitationId, UserId};

use super::Time;
use super::guard::{Asker, Granted, require};
use super::operation::Operation;
use super::paged::{PageQuery, Query};
use super::people_types::{
    Invitation, InvitationCreated, Link, MailTest, Membership, NewInvitation, NewPasswordLink,
    NewUser, User, UserChange, UserCreated,
};
use super::routes::Content;
use crate::accounts::{AccountHandle, fresh_ctx};
use crate::api::problem::{ApiResult, Failure};
use crate::broker::Broker;
use crate::mail::Invite;
use crate::people::Grant;

type Shared = State<Arc<Broker>>;

/// Operations on users, and on members and invitations of an account.
pub(super) fn operations() -> Vec<Operation> {
    let mut all = user_operations();
    all.extend(member_operations());
    all
}

fn user_operations() -> Vec<Operation> {
    vec![
        Operation::get("/users", "listUsers", "All users, by e-mail address", list)
            .needs(Right::ReadBroker)
            .lists::<User>(),
        Operation::post("/users", "createUser", "Creates a user", create)
            .needs(Right::ManageUsers)
            .takes::<NewUser>()
            .creates::<UserCreated>(),
        Operation::get("/users/{user}", "getUser", "A user", show)
            .needs(Right::ReadBroker)
            .gives::<User>(),
        Operation::patch("/users/{user}", "changeUser", "Changes or suspends a user", change)
            .needs(Right::ManageUsers)
            .takes::<UserChange>()
            .gives::<User>(),
        Operation::delete("/users/{user}", "deleteUser", "Removes a user", remove)
            .needs(Right::ManageUsers),
        Operation::post(
            "/users/{user}/password-link",
            "createPasswordLink",
            "Makes a one-time link by which a user sets a password",
            password_link,
        )
        .needs(Right::ManageOperators)
        .takes::<NewPasswordLink>()
        .creates::<Link>(),
        Operation::post(
            "/mail/test",
            "testMail",
            "Sends a mail, to see whether it works",
            test_mail,
        )
        .needs(Right::ManageBroker)
        .takes::<MailTest>()
        .gives::<MailTest>(),
    ]
}

fn member_operations() -> Vec<Operation> {
    vec![
        Operation::get(
            "/accounts/{account}/members",
            "listMembers",
            "The account's users",
            members,
        )
        .needs(Right::ReadPeople)
        .lists::<User>(),
        Operation::put(
            "/accounts/{account}/members/{user}",
            "setRole",
            "Gives a member another role",
            set_role,
        )
        .needs(Right::ManagePeople)
        .takes::<Membership>()
        .gives::<User>(),
        Operation::delete(
            "/accounts/{account}/members/{user}",
            "deleteMember",
            "Takes somebody out of the account",
            leave,
        )
        .needs(Right::ManagePeople),
        Operation::get(
            "/accounts/{account}/invitations",
            "listInvitations",
            "Open invitations, the oldest first",
            invitations,
        )
        .needs(Right::ReadPeople)
        .lists::<Invitation>(),
        Operation::post(
            "/accounts/{account}/invitations",
            "createInvitation",
            "Invites somebody into the account",
            invite,
        )
        .needs(Right::ManagePeople)
        .takes::<NewInvitation>()
        .creates::<InvitationCreated>(),
        Operation::delete(
            "/accounts/{account}/invitations/{invitation}",
            "deleteInvitation",
            "Takes an invitation back",
            take_back,
        )
        .needs(Right::ManagePeople),
    ]
}

async fn list(State(broker): Shared, Query(page): Query<PageQuery>) -> ApiResult<Response> {
    page.of(users(&broker, |_| true), |user| user.email.to_string())
}

async fn show(State(broker): Shared, Path(user): Path<String>) -> ApiResult<Json<User>> {
    shown(&broker, find(&broker, &user)?).map(Json)
}

async fn create(
    State(broker): Shared,
    Granted(grant): Granted,
    Content(new): Content<NewUser>,
) -> ApiResult<(StatusCode, Json<UserCreated>)> {
    let NewUser { email, name, operator } = new;
    if operator {
        require(&broker, &grant, Right::ManageOperators, None)?;
    }
    let by = grant.by();
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
    Granted(grant): Granted,
    Path(user): Path<String>,
    Content(change): Content<UserChange>,
) -> ApiResult<Json<User>> {
    let user = find(&broker, &user)?;
    let UserChange { email, name, operator, suspended } = change;
    if email.is_some() || operator.is_some() {
        require(&broker, &grant, Right::ManageOperators, None)?;
    }
    check_not_above(&broker, &grant, user)?;
    let by = grant.by();
    let edit = UserEdit { email, name, operator, suspended };
    let change = move |people: &People, _: &_| people.prepare_edit_user(user, edit);
    broker.people.durable(by, change).await?;
    shown(&broker, user).map(Json)
}

async fn remove(
    State(broker): Shared,
    Granted(grant): Granted,
    Path(user): Path<String>,
) -> ApiResult<StatusCode> {
    let user = find(&broker, &user)?;
    check_not_above(&broker, &grant, user)?;
    broker.people.durable(grant.by(), move |people, _| people.prepare_remove_user(user)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Who may manage users alone leaves operators as they are.
fn check_not_above(broker: &Broker, grant: &Grant, user: UserId) -> ApiResult<()> {
    let is_operator = |people: &People| people.user(user).is_some_and(|user| user.operator);
    match broker.people.read(is_operator) {
        true => require(broker, grant, Right::ManageOperators, None),
        false => Ok(()),
    }
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

async fn test_mail(
    State(broker): Shared,
    Asker(by): Asker,
    Content(MailTest { to }): Content<MailTest>,
) -> ApiResult<Json<MailTest>> {
    let post = broker.post()?;
    broker.note("broker.mail-tested", &by).await?;
    post.test(&to).await?;
    Ok(Json(MailTest { to }))
}

async fn members(
    State(broker): Shared,
    Path(account): Path<String>,
    Query(page): Query<PageQuery>,
) -> ApiResult<Response> {
    let account = broker.accounts.find(&account)?;
    let id = account.id();
    let of_account: Vec<UserId> =
        broker.people.read(|people| people.members(id).map(|it| it.user.id).collect());
    let members = users(&broker, |user| of_account.contains(&user.id));
    let seen = members.into_iter().map(|user| as_member(user, &account));
    page.of(seen, |user| user.email.to_string())
}

/// A user as his account sees him: what he is in others is nothing to it.
fn as_member(mut user: User, account: &AccountHandle) -> User {
    let name = account.record().name;
    user.accounts.retain(|other, _| *other == name);
    user
}

async fn set_role(
    State(broker): Shared,
    Granted(grant): Granted,
    Path((account, user)): Path<(String, String)>,
    Content(Membership { role }): Content<Membership>,
) -> ApiResult<Json<User>> {
    let account = broker.accounts.find(&account)?;
    let user = change_role(&broker, &grant, &account, &user, Some(role)).await?;
    Ok(Json(as_member(shown(&broker, user)?, &account)))
}

async fn leave(
    State(broker): Shared,
    Granted(grant): Granted,
    Path((account, user)): Path<(String, String)>,
) -> ApiResult<StatusCode> {
    let account = broker.accounts.find(&account)?;
    change_role(&broker, &grant, &account, &user, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a user into something in an account; says who he is.
async fn change_role(
    broker: &Broker,
    grant: &Grant,
    account: &AccountHandle,
    user: &str,
    to: Option<Role>,
) -> ApiResult<UserId> {
    let sees_all = require(broker, grant, Right::ManageUsers, None).is_ok();
    // Who may not see all users isn't told whether there is one of that name.
    let unseen = |failure| if sees_all { failure } else { Failure::not_found("user") };
    let user = find(broker, user).map_err(unseen)?;
    let (by, account) = (grant.asker(), account.id());
    let change = move |people: &People, ctx: &_| people.prepare_role(&by, user, account, to, ctx);
    broker.people.durable(grant.by(), change).await?;
    Ok(user)
}

async fn invitations(
    State(broker): Shared,
    Path(account): Path<String>,
    Query(page): Query<PageQuery>,
) -> ApiResult<Response> {
    let account = broker.accounts.find(&account)?.id();
    let fates = broker.mail.as_ref().map(|post| post.fates()).unwrap_or_default();
    let view = |it: &warren_coord::InvitationRecord| Invitation {
        id: it.id,
        role: it.role,
        email: it.email.clone(),
        created: Time(it.created.0),
        expires: Time(it.expires.0),
        mail: fates.get(&it.id).map(ToString::to_string),
    };
    let open: Vec<Invitation> =
        broker.people.read(|people| people.invitations(account, now()).map(view).collect());
    page.of(open, |it| format!("{:020} {}", it.created.0, it.id))
}

async fn invite(
    State(broker): Shared,
    Granted(grant): Granted,
    Path(account): Path<String>,
    Content(new): Content<NewInvitation>,
) -> ApiResult<(StatusCode, Json<InvitationCreated>)> {
    let handle = broker.accounts.find(&account)?;
    let account = handle.id();
    let NewInvitation { role, email, expires_in, mail } = new;
    let to = match (mail, &email) {
        (false, _) => None,
        (true, Some(email)) => broker.post().map(|_| Some(email.clone()))?,
        (true, None) => return Err(Failure::invalid("a mail needs an e-mail address to go to")),
    };
    let new = warren_coord::NewInvitation { account, role, email, expires_in };
    let by = grant.asker();
    let invite = move |people: &People, ctx: &_| people.prepare_invitation(&by, new, ctx);
    let created = broker.people.durable(grant.by(), invite).await?;
    let link = broker.link("invitation", &created.secret);
    let mailed = to.as_ref().is_some_and(|to| {
        let name = handle.record().name.to_string();
        let by = grant.user().and_then(|by| broker.people.read(|it| it.user(by).cloned()));
        let by = by.as_ref().map(|by| &by.email);
        let invite = Invite { id: created.id, to, account, name: &name, by, link: &link };
        // The invitation is there all the same, and the answer has its link.
        broker.mail_invitation(&invite).is_ok()
    });
    let expires = Time(created.expires.0);
    let created = InvitationCreated { id: created.id, link, expires, mailed };
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
