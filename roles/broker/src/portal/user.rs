//! One user as the operator sees him: whether he is an operator, whether he may sign in, a link for a
//! password that was forgotten.

use askama::Template;
use axum::extract::{Path, State};
use serde::Deserialize;
use warren_coord::{People, Right, UserEdit, UserRecord};
use warren_proto::UserId;
use warren_web::{Layout, When};

use super::answer::{Answer, Oops, done, failed, page};
use super::browser::Form;
use super::frame::operator;
use super::operator::check;
use super::profile::confirm;
use super::tenant::Typed;
use super::viewer::Viewer;
use super::{Portal, Shared};
use crate::accounts::fresh_ctx;
use crate::api::problem::Failure;

struct Membership {
    account: String,
    href: String,
    role: String,
}

#[derive(Template)]
#[template(path = "user.html")]
struct Page {
    layout: Layout,
    path: String,
    name: String,
    email: String,
    is_self: bool,
    is_operator: bool,
    suspended: bool,
    has_totp: bool,
    accounts: Vec<Membership>,
    /// Whether the viewer has a password that can be asked for.
    asks_password: bool,
}

impl Page {
    /// Where one of the forms is sent.
    fn at(&self, form: &str) -> String {
        format!("{}/{form}", self.path)
    }
}

#[derive(Template)]
#[template(path = "user_link.html")]
struct LinkPage {
    layout: Layout,
    path: String,
    email: String,
    link: String,
    expires: When,
}

/// `GET /operator/users/{user}`
pub(super) async fn show(
    State(portal): Shared,
    viewer: Viewer,
    Path(user): Path<String>,
) -> Answer {
    check(&viewer, Right::ReadBroker)?;
    let user = find(&portal, &user)?;
    let has_password =
        |people: &People| people.user(viewer.user).is_some_and(|viewer| viewer.password.is_some());
    let memberships = |people: &People| -> Vec<_> {
        people.memberships(user.id).map(|it| (it.account, it.role)).collect()
    };
    let (asks_password, memberships) =
        portal.broker.people.read(|people| (has_password(people), memberships(people)));
    let mut accounts: Vec<Membership> = memberships
        .into_iter()
        .filter_map(|(account, role)| {
            let account = portal.broker.accounts.get(account)?.record().name.to_string();
            let href = format!("/a/{account}/users");
            Some(Membership { account, href, role: role.to_string() })
        })
        .collect();
    accounts.sort_by(|a, b| a.account.cmp(&b.account));
    page(&Page {
        layout: layout(&portal, &viewer, &user.name),
        path: path_of(user.id),
        is_self: user.id == viewer.user,
        is_operator: user.operator,
        suspended: user.suspended,
        has_totp: user.totp.is_some(),
        name: user.name,
        email: user.email.to_string(),
        accounts,
        asks_password,
    })
}

fn layout(portal: &Portal, viewer: &Viewer, title: &str) -> Layout {
    Layout { nav: vec![vec![operator(true)]], ..viewer.layout(portal, title, None) }
}

fn path_of(user: UserId) -> String {
    format!("/operator/users/{user}")
}

fn find(portal: &Portal, user: &str) -> Result<UserRecord, Oops> {
    let id: UserId = user.parse().map_err(|_| Oops::not_found("user"))?;
    let found = portal.broker.people.read(|people| people.user(id).cloned());
    found.ok_or_else(|| Oops::not_found("user"))
}

#[derive(Debug, Deserialize)]
pub(super) struct Switch {
    /// `on` or nothing.
    #[serde(default)]
    on: String,
    /// The viewer's password.
    #[serde(default)]
    confirm: String,
}

/// `POST /operator/users/{user}/operator`
pub(super) async fn appoint(
    State(portal): Shared,
    viewer: Viewer,
    Path(user): Path<String>,
    Form(form): Form<Switch>,
) -> Answer {
    check(&viewer, Right::ManageOperators)?;
    let user = find(&portal, &user)?;
    if let Err(text) = confirm(&portal, &viewer, form.confirm).await {
        return failed(&path_of(user.id), Failure::invalid(text));
    }
    let operator = Some(!form.on.is_empty());
    change(&portal, &viewer, user.id, UserEdit { operator, ..UserEdit::default() }).await
}

/// `POST /operator/users/{user}/suspend`
pub(super) async fn suspend(
    State(portal): Shared,
    viewer: Viewer,
    Path(user): Path<String>,
    Form(form): Form<Switch>,
) -> Answer {
    check(&viewer, Right::ManageUsers)?;
    let user = find(&portal, &user)?;
    let suspended = Some(!form.on.is_empty());
    change(&portal, &viewer, user.id, UserEdit { suspended, ..UserEdit::default() }).await
}

async fn change(portal: &Portal, viewer: &Viewer, user: UserId, edit: UserEdit) -> Answer {
    let change = move |people: &People, _: &_| people.prepare_edit_user(user, edit);
    match portal.broker.people.durable(viewer.by(), change).await {
        Ok(()) => done(&path_of(user), "Saved."),
        Err(failure) => failed(&path_of(user), failure),
    }
}

/// `POST /operator/users/{user}/password`
///
/// The answer shows the link, which is nowhere else; so it is no redirect.
pub(super) async fn password_link(
    State(portal): Shared,
    viewer: Viewer,
    Path(user): Path<String>,
    Form(form): Form<Switch>,
) -> Answer {
    check(&viewer, Right::ManageOperators)?;
    let user = find(&portal, &user)?;
    if let Err(text) = confirm(&portal, &viewer, form.confirm).await {
        return failed(&path_of(user.id), Failure::invalid(text));
    }
    let (id, second_factor) = (user.id, !form.on.is_empty());
    let made = portal
        .broker
        .people
        .durable(viewer.by(), move |people, ctx| {
            people.prepare_password_link(id, second_factor, ctx)
        })
        .await;
    match made {
        Ok(made) => page(&LinkPage {
            layout: layout(&portal, &viewer, "New password"),
            path: path_of(id),
            email: user.email.to_string(),
            link: portal.broker.link("password", &made.secret),
            expires: When { at: made.expires.0, now: fresh_ctx().unix.as_secs() },
        }),
        Err(failure) => failed(&path_of(id), failure),
    }
}

/// `POST /operator/users/{user}/delete`
pub(super) async fn delete(
    State(portal): Shared,
    viewer: Viewer,
    Path(user): Path<String>,
    Form(form): Form<Typed>,
) -> Answer {
    check(&viewer, Right::ManageUsers)?;
    let user = find(&portal, &user)?;
    if !form.typed.trim().eq_ignore_ascii_case(user.email.as_str()) {
        let text = "nobody was deleted: type the e-mail address as it is";
        return failed(&path_of(user.id), Failure::invalid(text));
    }
    let id = user.id;
    let remove = move |people: &People, _: &_| people.prepare_remove_user(id);
    match portal.broker.people.durable(viewer.by(), remove).await {
        Ok(()) => done("/operator", format!("{} is deleted.", user.email)),
        Err(failure) => failed(&path_of(id), failure),
    }
}
