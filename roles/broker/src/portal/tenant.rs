//! One account as the operator sees it: its limits, and whether it is suspended.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::Deserialize;
use warren_coord::{DeviceLimit, Right, SettingsEdit};
use warren_web::Layout;

use super::answer::{Answer, Oops, done, failed, page, page_with, sentence};
use super::browser::{Form, Nothing};
use super::frame::operator;
use super::operator::check;
use super::viewer::Viewer;
use super::{Portal, Shared};
use crate::accounts::AccountHandle;
use crate::api::problem::Failure;

#[derive(Template)]
#[template(path = "tenant.html")]
struct Page {
    layout: Layout,
    name: String,
    path: String,
    suspended: bool,
    devices: usize,
    /// How many it may have where nothing else is set.
    usual_devices: u32,
    members: usize,
    typed_devices: String,
    typed_users: String,
    error: String,
}

impl Page {
    /// Where one of the forms is sent.
    fn at(&self, form: &str) -> String {
        format!("{}/{form}", self.path)
    }

    /// The attributes of the device limit's field.
    fn devices_more(&self) -> String {
        format!("inputmode=numeric maxlength=5 autocomplete=off placeholder={}", self.usual_devices)
    }
}

/// Limits as they were typed; nothing: the usual.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Limits {
    devices: String,
    users: String,
}

impl Limits {
    fn read(&self) -> Result<SettingsEdit, &'static str> {
        let number = |text: &str| match text.trim() {
            "" => Ok(None),
            text => text.parse::<u32>().map(Some).map_err(|_| "a limit is a whole number"),
        };
        Ok(SettingsEdit {
            device_limit: Some(number(&self.devices)?.map(DeviceLimit)),
            user_limit: Some(number(&self.users)?),
            ..SettingsEdit::default()
        })
    }
}

/// `GET /operator/accounts/{account}`
pub(super) async fn show(
    State(portal): Shared,
    viewer: Viewer,
    Path(name): Path<String>,
) -> Answer {
    check(&viewer, Right::ReadBroker)?;
    let account = find(&portal, &name)?;
    page(&render(&portal, &viewer, &account))
}

/// `POST /operator/accounts/{account}`
pub(super) async fn limit(
    State(portal): Shared,
    viewer: Viewer,
    Path(name): Path<String>,
    Form(form): Form<Limits>,
) -> Answer {
    check(&viewer, Right::ManageAccounts)?;
    let account = find(&portal, &name)?;
    let outcome = match form.read() {
        Ok(edit) => portal.broker.change_settings(viewer.by(), &account, edit).await,
        Err(text) => Err(Failure::invalid(text)),
    };
    match outcome {
        Ok(()) => done(&path_of(&account), "The limits are saved."),
        Err(failure) => {
            let again = Page {
                typed_devices: form.devices,
                typed_users: form.users,
                error: sentence(failure.text()),
                ..render(&portal, &viewer, &account)
            };
            page_with(StatusCode::UNPROCESSABLE_ENTITY, &again)
        }
    }
}

/// `POST /operator/accounts/{account}/suspend`
pub(super) async fn suspend(
    State(portal): Shared,
    viewer: Viewer,
    Path(name): Path<String>,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    set_suspended(&portal, &viewer, &name, true).await
}

/// `POST /operator/accounts/{account}/resume`
pub(super) async fn resume(
    State(portal): Shared,
    viewer: Viewer,
    Path(name): Path<String>,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    set_suspended(&portal, &viewer, &name, false).await
}

/// What somebody types to show that he means it.
#[derive(Debug, Deserialize)]
pub(super) struct Typed {
    pub(super) typed: String,
}

/// `POST /operator/accounts/{account}/delete`
pub(super) async fn delete(
    State(portal): Shared,
    viewer: Viewer,
    Path(name): Path<String>,
    Form(form): Form<Typed>,
) -> Answer {
    check(&viewer, Right::ManageAccounts)?;
    let account = find(&portal, &name)?;
    if form.typed.trim() != name {
        let text = "nothing was deleted: type the account's name as it is";
        return failed(&path_of(&account), Failure::invalid(text));
    }
    match portal.broker.remove_account(viewer.by(), account.id()).await {
        Ok(()) => done("/operator", format!("The account {name} is deleted.")),
        Err(failure) => failed(&path_of(&account), failure),
    }
}

async fn set_suspended(portal: &Portal, viewer: &Viewer, name: &str, suspended: bool) -> Answer {
    check(viewer, Right::ManageAccounts)?;
    let account = find(portal, name)?;
    let edit = SettingsEdit { suspended: Some(suspended), ..SettingsEdit::default() };
    match portal.broker.change_settings(viewer.by(), &account, edit).await {
        Ok(()) if suspended => done(&path_of(&account), "Suspended: its devices have no mesh."),
        Ok(()) => done(&path_of(&account), "It goes on as it was."),
        Err(failure) => failed(&path_of(&account), failure),
    }
}

fn find(portal: &Portal, name: &str) -> Result<Arc<AccountHandle>, Oops> {
    let mut all = portal.broker.accounts.all().into_iter();
    let found = all.find(|account| account.record().name.as_str() == name);
    found.ok_or_else(|| Oops::not_found("account"))
}

fn path_of(account: &AccountHandle) -> String {
    format!("/operator/accounts/{}", account.record().name)
}

fn render(portal: &Portal, viewer: &Viewer, account: &AccountHandle) -> Page {
    let record = account.record();
    let typed = |limit: Option<u32>| limit.map(|it| it.to_string()).unwrap_or_default();
    Page {
        layout: Layout {
            nav: vec![vec![operator(true)]],
            ..viewer.layout(portal, record.name.as_str(), None)
        },
        path: path_of(account),
        suspended: record.settings.suspended,
        devices: account.read(warren_coord::Account::device_count),
        usual_devices: portal.broker.accounts.settings().device_limit.0,
        members: portal.broker.people.read(|people| people.members(account.id()).count()),
        typed_devices: typed(record.settings.device_limit.map(|limit| limit.0)),
        typed_users: typed(record.settings.user_limit),
        error: String::new(),
        name: record.name.to_string(),
    }
}
