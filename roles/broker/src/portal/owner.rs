//! Whose a device is.

use axum::extract::{Path, State};
use serde::Deserialize;
use warren_coord::{DeviceEdit, DeviceView, Right, UserRecord};

use super::answer::{Answer, done, failed};
use super::browser::Form;
use super::device::{change, find, page_of};
use super::viewer::Member;
use super::{Portal, Shared};
use crate::admin::devices::owner_of;

/// Somebody whose a device may be.
pub(super) struct Choice {
    pub(super) email: String,
    pub(super) name: String,
    pub(super) is_owner: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Owner {
    /// An e-mail address, or `none`.
    owner: String,
}

/// `POST …/owner`
pub(super) async fn give(
    State(portal): Shared,
    member: Member,
    Path((_, device)): Path<(String, String)>,
    Form(form): Form<Owner>,
) -> Answer {
    member.check(Right::ManageDevices)?;
    let id = find(&member, &device)?;
    let outcome = match owner_of(&portal.broker, &member.account, Some(&form.owner)) {
        Ok(owner) => change(&member, id, DeviceEdit { owner, ..DeviceEdit::default() }).await,
        Err(failure) => Err(failure),
    };
    match outcome {
        Ok(()) => done(&page_of(&member, id), "It is saved whose it is."),
        Err(failure) => failed(&page_of(&member, id), failure),
    }
}

/// The account's people; nobody but admins is told.
pub(super) fn choices(portal: &Portal, member: &Member, device: &DeviceView) -> Vec<Choice> {
    if !member.may(Right::ManageDevices) {
        return Vec::new();
    }
    let mut people: Vec<Choice> = portal.broker.people.read(|people| {
        let all = people.members(member.account.id()).map(|it| it.user);
        let person = |user: &UserRecord| Choice {
            email: user.email.to_string(),
            name: user.name.clone(),
            is_owner: device.owner == Some(user.id),
        };
        all.map(person).collect()
    });
    people.sort_by(|a, b| a.email.cmp(&b.email));
    people
}
