//! The people of an account: members, their roles, invitations.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::Deserialize;
use warren_coord::{
    Asker, Email, InvitationRecord, Member as Person, NewInvitation, People, Right, Role, UnixTime,
    UserRecord, may, right_for_role,
};
use warren_proto::{ErrorCode, InvitationId, UserId};
use warren_web::{Layout, When};

use super::answer::{Answer, Oops, done, failed, page, page_with, sentence};
use super::browser::{Form, Nothing};
use super::frame::Section;
use super::viewer::Member;
use super::{Portal, Shared};
use crate::accounts::fresh_ctx;
use crate::mail::{Fate, Invite as Mailed};

struct Row {
    id: String,
    name: String,
    email: String,
    is_self: bool,
    suspended: bool,
    has_totp: bool,
    seen: Option<When>,
    role: &'static str,
    /// What the viewer may make of him; nothing: he may not.
    choices: Vec<&'static str>,
    change: String,
    may_remove: bool,
    remove: String,
}

struct Open {
    whom: String,
    role: &'static str,
    expires: When,
    /// What became of its mail, in words.
    mail: Option<String>,
    remove: String,
}

#[derive(Template)]
#[template(path = "users.html")]
struct Page {
    layout: Layout,
    path: String,
    roles: Vec<&'static str>,
    members: Vec<Row>,
    invitations: Vec<Open>,
    typed_email: String,
    email_error: String,
    /// Whether invitations can be mailed.
    sends_mail: bool,
}

#[derive(Template)]
#[template(path = "invited.html")]
struct Invited {
    layout: Layout,
    path: String,
    whom: String,
    link: String,
    expires: When,
    mailed: bool,
    /// Why it was not mailed.
    mail_error: String,
}

/// `GET /a/{account}/users`
pub(super) async fn show(State(portal): Shared, member: Member) -> Answer {
    member.check(Right::ReadPeople)?;
    page(&list(&portal, &member, String::new(), String::new()))
}

fn list(portal: &Portal, member: &Member, typed_email: String, email_error: String) -> Page {
    let now = fresh_ctx().unix.as_secs();
    let account = member.account.id();
    let fates = portal.broker.mail.as_ref().map(|post| post.fates()).unwrap_or_default();
    let (mut members, mut invitations) = portal.broker.people.read(|people| {
        let members: Vec<Row> =
            people.members(account).map(|person| row(member, people, &person, now)).collect();
        let open = people.invitations(account, UnixTime(now));
        let invitations: Vec<Open> = open.map(|it| invitation(member, it, &fates, now)).collect();
        (members, invitations)
    });
    members.sort_by(|a, b| (a.name.to_lowercase(), &a.id).cmp(&(b.name.to_lowercase(), &b.id)));
    invitations.sort_by_key(|open| open.expires.at);
    let gives = |role: &Role| may(member.standing, right_for_role(None, Some(*role)));
    Page {
        layout: member.layout(portal, "Users", Section::Users),
        path: member.path("users"),
        roles: Role::ALL.into_iter().filter(gives).map(Role::as_str).collect(),
        members,
        invitations,
        typed_email,
        email_error,
        sends_mail: portal.broker.mail.is_some(),
    }
}

fn row(member: &Member, people: &People, person: &Person<'_>, now: u64) -> Row {
    let (user, role) = (person.user, person.membership.role);
    let is_self = user.id == member.viewer.user;
    let can = |to| may(member.standing, right_for_role(Some(role), to));
    let choices: Vec<&str> =
        Role::ALL.into_iter().filter(|to| can(Some(*to))).map(Role::as_str).collect();
    Row {
        id: user.id.to_string(),
        name: user.name.clone(),
        email: user.email.to_string(),
        is_self,
        suspended: user.suspended,
        has_totp: user.totp.is_some(),
        seen: seen(people, user, now),
        role: role.as_str(),
        choices: if can(Some(role)) { choices } else { Vec::new() },
        change: member.path(&format!("users/{}/role", user.id)),
        may_remove: is_self || can(None),
        remove: member.path(&format!("users/{}/remove", user.id)),
    }
}

/// When somebody was seen last; what is stored is written now and then only.
pub(super) fn seen(people: &People, user: &UserRecord, now: u64) -> Option<When> {
    let used = people.live_sessions(user.id, UnixTime(now)).map(|session| session.last_used).max();
    user.last_seen.max(used).map(|at| When { at: at.0, now })
}

fn invitation(
    member: &Member,
    invitation: &InvitationRecord,
    fates: &BTreeMap<InvitationId, Fate>,
    now: u64,
) -> Open {
    Open {
        mail: fates.get(&invitation.id).map(ToString::to_string),
        whom: match &invitation.email {
            Some(email) => email.to_string(),
            None => "Whoever has the link".to_owned(),
        },
        role: invitation.role.as_str(),
        expires: When { at: invitation.expires.0, now },
        remove: member.path(&format!("users/invitations/{}/remove", invitation.id)),
    }
}

#[derive(Deserialize)]
pub(super) struct Invite {
    email: String,
    role: String,
    /// Whether the link is mailed, where there is an address.
    mail: Option<String>,
}

/// `POST /a/{account}/users`
///
/// The answer shows the link, which is nowhere else; so it is no redirect.
pub(super) async fn invite(
    State(portal): Shared,
    member: Member,
    Form(form): Form<Invite>,
) -> Answer {
    let role: Role = form.role.parse().map_err(|_| Oops::not_found("role"))?;
    member.check(right_for_role(None, Some(role)))?;
    let typed = form.email.trim();
    let email: Option<Email> = match typed.is_empty() {
        true => None,
        false => match typed.parse() {
            Ok(email) => Some(email),
            Err(error) => {
                let error: warren_coord::InvalidEmail = error;
                let error = sentence(&error.to_string());
                let form = list(&portal, &member, form.email, error);
                return page_with(StatusCode::UNPROCESSABLE_ENTITY, &form);
            }
        },
    };
    let to = email.clone();
    let new = NewInvitation { account: member.account.id(), role, email, expires_in: None };
    let by = Asker::User(member.viewer.user);
    let created = portal
        .broker
        .people
        .durable(member.by(), move |people, ctx| people.prepare_invitation(&by, new, ctx))
        .await;
    let created = match created {
        Ok(created) => created,
        Err(failure) => return failed(&member.path("users"), failure),
    };
    let link = portal.broker.link("invitation", &created.secret);
    let wished = to.as_ref().filter(|_| form.mail.is_some() && portal.broker.mail.is_some());
    let mailed = wished.map(|to| {
        portal.broker.mail_invitation(&Mailed {
            id: created.id,
            to,
            account: member.account.id(),
            name: &member.name,
            by: Some(&member.viewer.email),
            link: &link,
        })
    });
    let whom = to.map(|to| to.to_string());
    page(&Invited {
        layout: member.layout(&portal, "Invitation", Section::Users),
        mailed: matches!(mailed, Some(Ok(()))),
        mail_error: match mailed {
            Some(Err(failure)) => sentence(failure.text()),
            Some(Ok(())) | None => String::new(),
        },
        path: member.path("users"),
        whom: whom.unwrap_or_else(|| "the person that you invite".to_owned()),
        link,
        expires: When { at: created.expires.0, now: fresh_ctx().unix.as_secs() },
    })
}

/// `POST /a/{account}/users/invitations/{invitation}/remove`
pub(super) async fn take_back(
    State(portal): Shared,
    member: Member,
    Path((_, invitation)): Path<(String, String)>,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    member.check(Right::ManagePeople)?;
    let id: InvitationId = invitation.parse().map_err(|_| Oops::not_found("invitation"))?;
    let account = member.account.id();
    let outcome = portal
        .broker
        .people
        .durable(member.viewer.by(), move |people, _| people.prepare_remove_invitation(account, id))
        .await;
    match outcome {
        Ok(()) => done(&member.path("users"), "The invitation is void."),
        Err(failure) => Err(failure.into()),
    }
}

#[derive(Deserialize)]
pub(super) struct NewRole {
    role: String,
}

/// `POST /a/{account}/users/{user}/role`
pub(super) async fn change_role(
    State(portal): Shared,
    member: Member,
    Path((_, user)): Path<(String, String)>,
    Form(form): Form<NewRole>,
) -> Answer {
    let role: Role = form.role.parse().map_err(|_| Oops::not_found("role"))?;
    set_role(&portal, &member, &user, Some(role)).await
}

/// `POST /a/{account}/users/{user}/remove`
pub(super) async fn remove(
    State(portal): Shared,
    member: Member,
    Path((_, user)): Path<(String, String)>,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    set_role(&portal, &member, &user, None).await
}

async fn set_role(portal: &Portal, member: &Member, user: &str, to: Option<Role>) -> Answer {
    let user: UserId = user.parse().map_err(|_| Oops::not_found("user"))?;
    let account = member.account.id();
    let leaves = user == member.viewer.user && to.is_none();
    let by = Asker::User(member.viewer.user);
    let change = move |people: &People, ctx: &_| people.prepare_role(&by, user, account, to, ctx);
    let outcome = portal.broker.people.durable(member.by(), change).await;
    match (outcome, to) {
        (Ok(()), _) if leaves => done("/", "You have left the account."),
        (Ok(()), Some(role)) => done(&member.path("users"), format!("Saved: {role}.")),
        (Ok(()), None) => done(&member.path("users"), "Removed from the account."),
        (Err(failure), _) if failure.code() == ErrorCode::Forbidden => Err(Oops::forbidden()),
        (Err(failure), _) => failed(&member.path("users"), failure),
    }
}
