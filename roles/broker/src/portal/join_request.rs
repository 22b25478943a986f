//! Letting a device in that shows a code.

use std::time::Instant;

use askama::Template;
use axum::extract::{Query, State};
use http::StatusCode;
use serde::Deserialize;
use warren_coord::{Right, Role, Standing, may};
use warren_proto::read_join_code;
use warren_web::Layout;

use super::answer::{Answer, Oops, done, page, page_with, refused_status, sentence};
use super::browser::Form;
use super::device::split_tags;
use super::viewer::Viewer;
use super::{Portal, Shared};
use crate::accounts::AccountHandle;
use crate::join_requests::{Asking, Confirmer};

#[derive(Template)]
#[template(path = "join_request.html")]
struct AskForCode {
    layout: Layout,
    typed: String,
    error: String,
}

#[derive(Template)]
#[template(path = "join_confirm.html")]
struct Confirm {
    layout: Layout,
    asking: Asking,
    /// Those that he may let devices into.
    accounts: Vec<String>,
    may_tag: bool,
    typed_tags: String,
    error: String,
}

/// The code, if it came along in the link.
#[derive(Deserialize)]
pub(super) struct Typed {
    #[serde(default)]
    code: String,
}

/// `GET /join/request`
pub(super) async fn show(
    State(portal): Shared,
    viewer: Viewer,
    Query(Typed { code }): Query<Typed>,
) -> Answer {
    if code.trim().is_empty() {
        return page(&ask(&portal, &viewer, code, String::new()));
    }
    match find(&portal, &code) {
        Some(asking) => page(&confirm(&portal, &viewer, asking, String::new(), String::new())),
        None => {
            let error = "No device shows this code. Codes are good for ten minutes; a code that \
                         isn't known although the device shows it means that the device speaks to \
                         somebody else than this broker.";
            let form = ask(&portal, &viewer, code, error.to_owned());
            page_with(StatusCode::UNPROCESSABLE_ENTITY, &form)
        }
    }
}

/// What is decided.
#[derive(Deserialize)]
pub(super) struct Decided {
    code: String,
    account: String,
    #[serde(default)]
    tags: String,
    /// `approve` or `deny`.
    decision: String,
}

/// `POST /join/request`
pub(super) async fn decide(
    State(portal): Shared,
    viewer: Viewer,
    Form(form): Form<Decided>,
) -> Answer {
    let Some(asking) = find(&portal, &form.code) else {
        let error = "This was decided already, or is ten minutes old.".to_owned();
        let form = ask(&portal, &viewer, form.code, error);
        return page_with(StatusCode::CONFLICT, &form);
    };
    // Whoever could let it in may also turn it away.
    if viewer.may_let_in(&portal).is_empty() {
        return Err(Oops::forbidden());
    }
    if form.decision != "approve" {
        portal.broker.turn_away(&asking.code)?;
        return done("/", format!("{} is turned away.", named(&asking)));
    }
    let accounts = viewer.accounts(&portal).into_iter();
    let mut own = accounts.filter(|(account, role)| {
        account.record().name.as_str() == form.account && may_let_in(account, *role)
    });
    let (account, role) = own.next().ok_or_else(|| Oops::not_found("account"))?;
    let approves = may(Standing::Role(role), Right::ManageJoinKeys);
    let tags = split_tags(&form.tags);
    if !approves && !tags.is_empty() {
        return Err(Oops::forbidden());
    }
    let confirmer = Confirmer { user: Some(viewer.user), approves };
    let let_in = portal.broker.let_in(viewer.by(), &account, &asking.code, tags, confirmer);
    if let Err(failure) = let_in.await {
        let error = sentence(failure.text());
        let again = confirm(&portal, &viewer, asking, form.tags, error);
        return page_with(refused_status(&failure), &again);
    }
    let text = format!("{} may join. It is listed here in a moment.", named(&asking));
    done(&format!("/a/{}/devices", form.account), text)
}

fn named(asking: &Asking) -> &str {
    if asking.name.is_empty() { "The device" } else { &asking.name }
}

/// Whether somebody may let devices into an account, at least his own.
fn may_let_in(account: &AccountHandle, role: Role) -> bool {
    may(Standing::Role(role), Right::ManageOwnDevices) && !account.is_suspended()
}

impl Viewer {
    /// The accounts that he may let devices into.
    fn may_let_in(&self, portal: &Portal) -> Vec<String> {
        let mine = self.accounts(portal).into_iter();
        let mine = mine.filter(|(account, role)| may_let_in(account, *role));
        mine.map(|(account, _)| account.record().name.to_string()).collect()
    }

    /// Whether he may give tags in one of his accounts.
    fn may_tag(&self, portal: &Portal) -> bool {
        let may_tag = |role| may(Standing::Role(role), Right::ManageJoinKeys);
        self.accounts(portal).into_iter().any(|(_, role)| may_tag(role))
    }
}

fn find(portal: &Portal, typed: &str) -> Option<Asking> {
    portal.broker.join_requests.find(&read_join_code(typed)?, Instant::now())
}

fn ask(portal: &Portal, viewer: &Viewer, typed: String, error: String) -> AskForCode {
    AskForCode { layout: viewer.layout(portal, "Let a device in", None), typed, error }
}

fn confirm(
    portal: &Portal,
    viewer: &Viewer,
    asking: Asking,
    typed_tags: String,
    error: String,
) -> Confirm {
    Confirm {
        layout: viewer.layout(portal, "Let a device in", None),
        accounts: viewer.may_let_in(portal),
        may_tag: viewer.may_tag(portal),
        asking,
        typed_tags,
        error,
    }
}
