//! The operator's own page: the broker as a whole, all accounts, all users.

use askama::Template;
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use warren_coord::{Asker, People, Right, Role, Standing, UserRecord, may};
use warren_proto::DeviceName;
use warren_web::{Layout, When};

use super::answer::{Answer, Oops, done, page, page_with, sentence};
use super::browser::Form;
use super::frame::operator;
use super::users::seen;
use super::viewer::Viewer;
use super::{Portal, Shared};
use crate::accounts::fresh_ctx;
use crate::api::problem::Failure;

struct Account {
    href: String,
    name: String,
    range: String,
    devices: usize,
    online: usize,
    members: usize,
    /// The page of its limits.
    limits: String,
    suspended: bool,
}

struct User {
    href: String,
    name: String,
    email: String,
    is_operator: bool,
    suspended: bool,
    has_totp: bool,
    accounts: usize,
    seen: Option<When>,
}

#[derive(Template)]
#[template(path = "operator.html")]
struct Page {
    layout: Layout,
    version: String,
    started: When,
    devices: usize,
    online: usize,
    problems: Vec<String>,
    accounts: Vec<Account>,
    users: Vec<User>,
    typed_name: String,
    name_error: String,
}

/// Nobody else is told that there is such a page.
pub(super) fn check(viewer: &Viewer, right: Right) -> Result<(), Oops> {
    match viewer.is_operator && may(Standing::Operator, right) {
        true => Ok(()),
        false => Err(Oops::not_found("page")),
    }
}

/// `GET /operator`
pub(super) async fn show(State(portal): Shared, viewer: Viewer) -> Answer {
    check(&viewer, Right::ReadBroker)?;
    page(&overview(&portal, &viewer, String::new(), String::new()))
}

fn overview(portal: &Portal, viewer: &Viewer, typed_name: String, name_error: String) -> Page {
    let now = fresh_ctx().unix.as_secs();
    let status = portal.broker.status();
    let accounts = portal.broker.accounts.all();
    let (members, mut users) = portal.broker.people.read(|people| {
        let members: Vec<usize> =
            accounts.iter().map(|account| people.members(account.id()).count()).collect();
        let row = |user: &UserRecord| user_row(people, user, now);
        (members, people.users().map(row).collect::<Vec<User>>())
    });
    users.sort_by_key(|user| user.name.to_lowercase());
    let row = |(account, members): (&std::sync::Arc<_>, usize)| account_row(account, members);
    Page {
        layout: Layout {
            nav: vec![vec![operator(true)]],
            ..viewer.layout(portal, "Operator", None)
        },
        version: status.version,
        started: When { at: status.started.0, now },
        devices: status.devices,
        online: status.online,
        problems: status.problems.iter().map(|text| sentence(text)).collect(),
        accounts: accounts.iter().zip(members).map(row).collect(),
        users,
        typed_name,
        name_error,
    }
}

fn account_row(account: &crate::accounts::AccountHandle, members: usize) -> Account {
    account.read(|account| {
        let record = account.record();
        Account {
            href: format!("/a/{}/devices", record.name),
            name: record.name.to_string(),
            range: record.ipv4_range.to_string(),
            devices: account.device_count(),
            online: account.session_count(),
            members,
            limits: format!("/operator/accounts/{}", record.name),
            suspended: record.settings.suspended,
        }
    })
}

fn user_row(people: &People, user: &UserRecord, now: u64) -> User {
    User {
        href: format!("/operator/users/{}", user.id),
        name: user.name.clone(),
        email: user.email.to_string(),
        is_operator: user.operator,
        suspended: user.suspended,
        has_totp: user.totp.is_some(),
        accounts: people.memberships(user.id).count(),
        seen: seen(people, user, now),
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct NewAccount {
    name: String,
}

/// `POST /operator/accounts`: its maker becomes its owner.
pub(super) async fn create_account(
    State(portal): Shared,
    viewer: Viewer,
    Form(form): Form<NewAccount>,
) -> Answer {
    check(&viewer, Right::ManageAccounts)?;
    let name = DeviceName::from_free_text(&form.name);
    let created = match form.name.trim().is_empty() {
        true => Err(Failure::invalid("an account has a name")),
        false => portal.broker.accounts.create(viewer.by(), name.clone(), None).await,
    };
    let account = match created {
        Ok(account) => account.id(),
        Err(failure) => {
            let error = sentence(failure.text());
            let refused = overview(&portal, &viewer, form.name, error);
            return page_with(StatusCode::UNPROCESSABLE_ENTITY, &refused);
        }
    };
    let user = viewer.user;
    portal
        .broker
        .people
        .durable(viewer.by(), move |people, ctx| {
            people.prepare_role(&Asker::User(user), user, account, Some(Role::Owner), ctx)
        })
        .await?;
    done(&format!("/a/{name}/devices"), format!("{name} is created, and yours."))
}
