//! Sends what [`Post`] takes: a few mails at once, and again later what a server puts off.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{debug, info};
use warren_coord::{Actor, By, Email};

use super::config::Server;
use super::letter::Letter;
use super::{Fate, Post, Refusal};
use crate::broker::Broker;

/// Mails under way at once.
const AT_ONCE: usize = 4;
/// Mails that wait for their turn, or to be tried again, at most.
const WAITING: usize = 1_000;
/// When a mail that was put off is tried again; then it is given up.
const PAUSES: [Duration; 4] = [
    Duration::from_secs(2),
    Duration::from_secs(30),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
];
/// How long nothing is looked at, at most.
const LONG: Duration = Duration::from_secs(3600);

/// What is to be done.
pub(super) enum Order {
    /// Somebody says that he has forgotten his password.
    Forgotten { email: Email, source: IpAddr },
    /// Sends a letter.
    Send(Letter),
}

struct Waiting {
    due: Instant,
    /// How often it was tried.
    tried: usize,
    letter: Letter,
}

/// What became of an attempt.
type Attempt = (Waiting, Result<(), Refusal>);

/// Sends what [`Post`] takes.
pub(crate) struct Postman {
    orders: mpsc::Receiver<Order>,
    server: Arc<Server>,
    post: Arc<Post>,
    waiting: Vec<Waiting>,
    under_way: JoinSet<Attempt>,
}

impl Postman {
    pub(super) fn new(orders: mpsc::Receiver<Order>, server: Arc<Server>, post: Arc<Post>) -> Self {
        Self { orders, server, post, waiting: Vec::new(), under_way: JoinSet::new() }
    }

    /// Sends until `shutdown`; what waits then is not sent.
    pub(super) async fn run(mut self, broker: Arc<Broker>, mut shutdown: watch::Receiver<bool>) {
        loop {
            self.begin();
            let pause = self.pause();
            tokio::select! {
                () = ended(&mut shutdown) => return,
                Some(order) = self.orders.recv() => match order {
                    Order::Send(letter) => self.take(letter),
                    Order::Forgotten { email, source } => {
                        if let Some(letter) = reset(&broker, email, source).await {
                            self.take(letter);
                        }
                    }
                },
                Some(ended) = self.under_way.join_next() => {
                    // One that panicked has said so itself.
                    if let Ok((waiting, outcome)) = ended {
                        self.end(waiting, outcome);
                    }
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Until when nothing is due that could begin.
    fn pause(&self) -> Duration {
        if self.under_way.len() >= AT_ONCE {
            return LONG;
        }
        let due = self.waiting.iter().map(|waiting| waiting.due).min();
        due.map_or(LONG, |due| due.saturating_duration_since(Instant::now()))
    }

    fn begin(&mut self) {
        let now = Instant::now();
        while self.under_way.len() < AT_ONCE {
            let due = self.waiting.iter().position(|waiting| waiting.due <= now);
            let Some(position) = due else { return };
            let waiting = self.waiting.remove(position);
            let server = self.server.clone();
            self.under_way.spawn(async move {
                let outcome = server.send(&waiting.letter).await;
                (waiting, outcome)
            });
        }
    }

    fn take(&mut self, letter: Letter) {
        if self.waiting.len() >= WAITING {
            self.give_up(&letter, "too many mails wait");
            return;
        }
        self.waiting.push(Waiting { due: Instant::now(), tried: 0, letter });
    }

    fn end(&mut self, Waiting { tried, letter, .. }: Waiting, outcome: Result<(), Refusal>) {
        let Refusal { why, is_final } = match outcome {
            Ok(()) => {
                self.post.worked();
                return self.note(&letter, Fate::Sent);
            }
            Err(refusal) => refusal,
        };
        let pause = PAUSES.get(tried).filter(|_| !is_final && self.waiting.len() < WAITING);
        let Some(pause) = pause else { return self.give_up(&letter, &why) };
        self.post.failed(&why);
        self.note(&letter, Fate::Waits(why));
        self.waiting.push(Waiting { due: Instant::now() + *pause, tried: tried + 1, letter });
    }

    fn give_up(&self, letter: &Letter, why: &str) {
        self.post.failed(why);
        self.note(letter, Fate::Failed(why.to_owned()));
    }

    fn note(&self, letter: &Letter, fate: Fate) {
        if let Some(invitation) = letter.invitation {
            self.post.note(invitation, fate);
        }
    }
}

/// Nothing of the channel is held while orders are carried out.
async fn ended(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// The letter to somebody who has forgotten his password, if there is such a user and he may have one.
async fn reset(broker: &Arc<Broker>, email: Email, source: IpAddr) -> Option<Letter> {
    let by = By { actor: Actor::Link, source: Some(source) };
    let asked = email.clone();
    let made = broker
        .people
        .durable(by, move |people, ctx| people.prepare_mailed_password_link(&asked, ctx))
        .await;
    match made {
        Ok(made) => {
            let link = broker.link("password", &made.secret);
            Some(Letter::password(email, &broker.reached_by().0, &link))
        }
        Err(failure) => {
            info!("a link for a password is not mailed");
            debug!(why = failure.text(), "a link for a password is not mailed");
            None
        }
    }
}
