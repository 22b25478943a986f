//! The stream of one relay server.

use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::sync::watch;
use warren_coord::relay_update;
use warren_proto::{RelayEvent, RelayInit};

use super::{News, Relays, Server};

struct Follower {
    relays: Arc<Relays>,
    server: Server,
    /// Which of the relay's streams this is.
    number: u64,
    news: watch::Receiver<News>,
    told: Option<RelayInit>,
    ended: bool,
}

/// What a relay server is told, from now on. A newer stream of the same relay ends it.
pub(crate) fn events(relays: Arc<Relays>, server: Server) -> impl Stream<Item = RelayEvent> + Send {
    let number = {
        let mut state = relays.lock();
        let newest = state.stream_by_relay.entry(server.id()).or_default();
        *newest += 1;
        *newest
    };
    let desk = relays.accounts.relay_news().clone();
    let news = desk.subscribe();
    // An older stream looks up, and sees that it is one.
    desk.announce();
    let follower = Follower { relays, server, number, news, told: None, ended: false };
    unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((event, follower))
    })
}

impl Follower {
    async fn next(&mut self) -> Option<RelayEvent> {
        loop {
            if self.ended || self.news.borrow_and_update().ending || !self.is_newest() {
                return None;
            }
            let Some(init) = self.relays.init(self.server) else {
                self.ended = true;
                return Some(RelayEvent::Revoked);
            };
            let event = match &self.told {
                None => Some(RelayEvent::Init(init.clone())),
                Some(told) => relay_update(told, &init),
            };
            if event.is_some() {
                self.told = Some(init);
                return event;
            }
            self.news.changed().await.ok()?;
        }
    }

    fn is_newest(&self) -> bool {
        let newest = self.relays.lock().stream_by_relay.get(&self.server.id()).copied();
        newest == Some(self.number)
    }
}
