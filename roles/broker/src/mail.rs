//! Mail: invitations, and links for passwords that were forgotten.
//!
//! ```text
//! pages, API ──► Post ── bounded queue ──► Postman ──► a few sendings at once ──► mail server
//!                 ▲                           │ puts off what the server puts off
//!                 └── what became of it ◄─────┘
//! ```
//!
//! Nobody waits for a mail but who tests it. Who has forgotten his password is looked up by the
//! postman, so that a stranger learns nothing from an answer or its time. Links are secrets: what waits
//! is in memory alone, and ends with the process.

mod config;
mod letter;
mod postman;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};
use warren_coord::{Bucket, Email};
use warren_proto::{AccountId, ErrorCode, InvitationId};

use crate::api::problem::{ApiResult, Failure};
use crate::broker::Broker;
use crate::config::PublicUrl;
use letter::Letter;
use postman::Order;

pub use config::{MailSecurity, SmtpConfig};
pub(crate) use postman::Postman;

/// What waits to be looked at, at most.
const QUEUE: usize = 200;
/// Invitations that one account has mailed: fifty at once, one more each minute.
const INVITATIONS: (u32, Duration) = (50, Duration::from_secs(60));
/// Accounts whose allowance is remembered; those that have all of it are forgotten.
const ACCOUNTS: usize = 1_000;
/// Invitations of which it is known what became of their mails.
const FATES: usize = 500;
/// Of what a mail server says.
const LONGEST_REASON: usize = 300;

/// What became of an invitation's mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is to be sent; or it was tried, and will be again, for this reason.
    Waits(String),
    /// The mail server has taken it.
    Sent,
    /// It is given up, for this reason.
    Failed(String),
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waits(why) if why.is_empty() => f.write_str("is on its way"),
            Self::Waits(why) => write!(f, "is tried again: {why}"),
            Self::Sent => f.write_str("was sent"),
            Self::Failed(why) => write!(f, "could not be sent: {why}"),
        }
    }
}

/// An invitation that is to be mailed.
pub(crate) struct Invite<'a> {
    pub(crate) id: InvitationId,
    pub(crate) to: &'a Email,
    pub(crate) account: AccountId,
    /// What the account is called.
    pub(crate) name: &'a str,
    /// Who invites; nobody: the broker's operator.
    pub(crate) by: Option<&'a Email>,
    pub(crate) link: &'a str,
}

/// Takes what is to be sent.
pub(crate) struct Post {
    queue: mpsc::Sender<Order>,
    server: Arc<config::Server>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    problem: Option<String>,
    fates: VecDeque<(InvitationId, Fate)>,
    allowances: BTreeMap<AccountId, Bucket>,
}

/// Nothing is connected to yet.
///
/// # Errors
/// What can't work, or the authority's file can't be read.
pub(crate) fn open(config: &SmtpConfig, url: &PublicUrl) -> Result<(Arc<Post>, Postman)> {
    let server = Arc::new(config.server(url)?);
    let (queue, orders) = mpsc::channel(QUEUE);
    let post = Arc::new(Post { queue, server: server.clone(), state: Mutex::default() });
    let postman = Postman::new(orders, server, post.clone());
    Ok((post, postman))
}

/// Sends until `shutdown`, where mail is sent at all.
pub(crate) async fn keep_sending(
    postman: Option<Postman>,
    broker: Arc<Broker>,
    shutdown: watch::Receiver<bool>,
) {
    if let Some(postman) = postman {
        postman.run(broker, shutdown).await;
    }
}

impl Post {
    /// What is wrong, for the operator.
    pub(crate) fn problem(&self) -> Option<String> {
        self.state().problem.clone()
    }

    /// Somebody says that he has forgotten his password: if he is a user, he gets a link.
    pub(crate) fn forgotten(&self, email: Email, source: IpAddr) {
        if self.queue.try_send(Order::Forgotten { email, source }).is_err() {
            self.failed("too many mails wait, and one was dropped");
        }
    }

    /// Takes an invitation's mail.
    ///
    /// # Errors
    /// The account has had too many mailed lately, or too much waits.
    pub(crate) fn invite(&self, invite: &Invite<'_>) -> ApiResult<()> {
        self.take_allowance(invite.account)?;
        let letter = Letter::invitation(invite);
        if self.queue.try_send(Order::Send(letter)).is_err() {
            self.failed("too many mails wait, and one was dropped");
            return Err(too_many("too many mails wait: the invitation was not mailed"));
        }
        self.note(invite.id, Fate::Waits(String::new()));
        Ok(())
    }

    /// Sends a mail at once, to see whether it works.
    ///
    /// # Errors
    /// What is in the way, as the mail server or the network says it.
    pub(crate) async fn test(&self, to: &Email) -> ApiResult<()> {
        match self.server.send(&Letter::test(to, self.server.name())).await {
            Ok(()) => {
                self.worked();
                Ok(())
            }
            Err(refusal) => {
                self.failed(&refusal.why);
                let text = format!("the mail could not be sent: {}", refusal.why);
                Err(Failure::new(ErrorCode::Unavailable, text))
            }
        }
    }

    /// What became of invitations' mails, as far as that is remembered.
    pub(crate) fn fates(&self) -> BTreeMap<InvitationId, Fate> {
        self.state().fates.iter().cloned().collect()
    }

    fn note(&self, invitation: InvitationId, fate: Fate) {
        let mut state = self.state();
        if let Some((_, known)) = state.fates.iter_mut().find(|(id, _)| *id == invitation) {
            *known = fate;
            return;
        }
        if state.fates.len() >= FATES {
            state.fates.pop_front();
        }
        state.fates.push_back((invitation, fate));
    }

    fn take_allowance(&self, account: AccountId) -> ApiResult<()> {
        let now = Instant::now();
        let mut state = self.state();
        if state.allowances.len() >= ACCOUNTS {
            state.allowances.retain(|_, bucket| !bucket.is_full(now));
        }
        let bucket = state.allowances.entry(account).or_insert_with(Bucket::full);
        match bucket.take(INVITATIONS.0, INVITATIONS.1, now) {
            true => Ok(()),
            false => {
                Err(too_many("this account has had many invitations mailed: hand the link over"))
            }
        }
    }

    fn failed(&self, why: &str) {
        warn!("a mail could not be sent");
        debug!(why, "a mail could not be sent");
        let text = format!(
            "The last mail could not be sent: {why}. `warren admin mail test ADDRESS` tries it again"
        );
        self.state().problem = Some(text);
    }

    fn worked(&self) {
        self.state().problem = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn too_many(text: &str) -> Failure {
    Failure::new(ErrorCode::RateLimited, text)
}

/// Why a mail was not sent.
#[derive(Debug)]
struct Refusal {
    why: String,
    /// It is of no use to try again.
    is_final: bool,
}

impl Refusal {
    fn new(text: &str, is_final: bool) -> Self {
        let why: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let end = why.floor_char_boundary(LONGEST_REASON);
        Self { why: why[..end].trim().trim_end_matches('.').to_owned(), is_final }
    }
}

impl Broker {
    /// Mails an invitation, where that is wished; whether it was taken.
    ///
    /// # Errors
    /// As [`Post::invite`], or this broker sends no mail.
    pub(crate) fn mail_invitation(&self, invite: &Invite<'_>) -> ApiResult<()> {
        self.post()?.invite(invite)
    }

    /// What takes mails.
    ///
    /// # Errors
    /// This broker sends none.
    pub(crate) fn post(&self) -> ApiResult<&Post> {
        self.mail.as_deref().ok_or_else(|| {
            Failure::invalid(
                "this broker sends no mail: its operator sets that up with --smtp-server",
            )
        })
    }
}
