//! Looking whether a device is reached at its static endpoint.

use axum::extract::Path;

use super::answer::{Answer, done, failed};
use super::browser::{Form, Nothing};
use super::device::{find_own, page_of};
use super::viewer::Member;
use crate::admin::Reachability;
use crate::api::problem::Failure;
use crate::reach::look;

/// `POST …/reach`
pub(super) async fn reach(
    member: Member,
    Path((_, device)): Path<(String, String)>,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    let id = find_own(&member, &device)?;
    match look(&member.account, id).await.map(Reachability::from) {
        Ok(seen) if seen.reached => done(&page_of(&member, id), seen.text),
        Ok(seen) => failed(&page_of(&member, id), Failure::invalid(seen.text)),
        Err(failure) => failed(&page_of(&member, id), failure),
    }
}
