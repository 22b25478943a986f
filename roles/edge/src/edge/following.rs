//! Opening anew for what has moved, and not before what is to be opened has been heard.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};
use warren_proto::{EdgeDuty, MacAddr};

use super::Engine;
use super::ways_back::WaysBack;
use crate::follow::{Event, Moves};
use crate::kernel::ledger::replace;

/// How often what moves is followed at most.
const MOVES: Duration = Duration::from_secs(1);
/// How long a device that is there takes to answer at most: so long all else waits for it.
const ANSWER: Duration = Duration::from_millis(200);
/// Where devices are that aren't where they were chosen.
const FILE: &str = "edge-places.json";

/// How long the place of a card is kept that isn't followed: out of the hours of its forward, and while that is
/// turned off, the broker doesn't tell of it. In seconds.
const KEPT: u64 = 30 * 86_400;
/// The most of those.
const MOST_KEPT: usize = 1024;

/// Where devices are, by card and the address at which they were chosen.
pub(super) type Places = BTreeMap<(MacAddr, Ipv4Addr), Kept>;

/// Where a device is that isn't where it was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    at: Ipv4Addr,
    /// Since when it isn't followed, in seconds since the Unix epoch. Absent: it is.
    idle_since: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    mac: MacAddr,
    chosen: Ipv4Addr,
    at: Ipv4Addr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idle_since_unix: Option<u64>,
}

impl Engine {
    /// Does what the follower wants done, but for opening anew; whether that is wanted, too.
    fn ask_around(&mut self) -> bool {
        let mut moved = false;
        while let Some(event) = self.follower.poll_event() {
            match event {
                Event::Ask(ip) => self.hearing.ask(ip),
                Event::Sweep(ip) => self.hearing.sweep(ip),
                Event::Moved => moved = true,
            }
        }
        moved
    }

    pub(super) async fn do_events(&mut self) {
        if self.ask_around() {
            self.follow().await;
        }
    }

    /// Opens anew for what has moved: at once, but not more often than each [`MOVES`], whatever is said
    /// on the LAN.
    pub(super) async fn follow(&mut self) {
        let now = Instant::now();
        match self.followed.map(|at| at + MOVES).filter(|next| now < *next) {
            Some(next) => self.again = Some(self.again.map_or(next, |again| again.min(next))),
            None => {
                self.followed = Some(now);
                self.apply().await;
            }
        }
        self.keep_places().await;
    }

    /// Waits for the answers of those whom nobody has heard yet, but no longer than a device takes that
    /// is there.
    pub(super) async fn await_answers(&mut self) {
        let deadline = Instant::now() + ANSWER;
        loop {
            let now = Instant::now().into_std();
            self.follower.handle_timeout(now);
            self.ask_around();
            // Where much is said, there is always something to hear.
            if !self.follower.awaits(ANSWER, now) || deadline.into_std() <= now {
                return;
            }
            let Ok(Some((mac, ip, network))) = timeout_at(deadline, self.hearing.next()).await
            else {
                return;
            };
            self.follower.handle_heard(mac, ip, network, Instant::now().into_std());
        }
    }

    /// Waits for the answers of those whose way back to the mesh matters, but no longer than that.
    pub(super) async fn await_tests(&mut self, duty: &EdgeDuty) {
        if self.config.userspace {
            return;
        }
        self.ways_back.test(duty, &self.follower, &self.config);
        let deadline = Instant::now() + ANSWER;
        while self.ways_back.is_awaited() {
            if timeout_at(deadline, self.ways_back.next()).await.is_err() {
                return;
            }
        }
    }

    /// What is known of the ways back to the mesh; the userspace proxy speaks for itself.
    pub(super) fn tested_ways(&self) -> Option<&WaysBack> {
        (!self.config.userspace).then_some(&self.ways_back)
    }

    /// Has the next start begin where devices are now.
    pub(super) async fn keep_places(&mut self) {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let places = self.places(unix.as_secs());
        if places == self.kept {
            return;
        }
        let entries = places.iter().map(|((mac, chosen), kept)| Entry {
            mac: *mac,
            chosen: *chosen,
            at: kept.at,
            idle_since_unix: kept.idle_since,
        });
        let entries: Vec<Entry> = entries.collect();
        let file = self.config.state.join(FILE);
        let written =
            tokio::task::spawn_blocking(move || replace(&file, &serde_json::to_vec(&entries)?));
        if let Ok(Err(error)) = written.await {
            tracing::warn!(%error, "where devices are isn't kept");
        }
        self.kept = places;
    }

    /// Where devices are, without those that nobody has followed for too long.
    fn places(&mut self, now: u64) -> Places {
        let mut idle = BTreeSet::new();
        let mut places = Places::new();
        for ((mac, chosen), at) in self.follower.moves() {
            let is_idle = !self.follower.follows(mac, chosen);
            let known = self.kept.get(&(mac, chosen)).and_then(|kept| kept.idle_since);
            let idle_since = is_idle.then(|| known.unwrap_or(now));
            idle.extend(idle_since.map(|since| (since, mac, chosen)));
            places.insert((mac, chosen), Kept { at, idle_since });
        }
        let too_many = idle.len().saturating_sub(MOST_KEPT);
        let is_old = |since: u64| now.saturating_sub(since) > KEPT;
        for (index, (since, mac, chosen)) in idle.into_iter().enumerate() {
            if index < too_many || is_old(since) {
                self.follower.forget(mac, chosen);
                places.remove(&(mac, chosen));
            }
        }
        places
    }
}

/// Where devices were when the last process ended.
pub(super) fn kept_places(state: &Path) -> Places {
    let Ok(text) = std::fs::read(state.join(PathBuf::from(FILE))) else { return Places::new() };
    let entries: Vec<Entry> = serde_json::from_slice(&text).unwrap_or_default();
    let places = entries.into_iter().map(|entry| {
        let Entry { mac, chosen, at, idle_since_unix } = entry;
        ((mac, chosen), Kept { at, idle_since: idle_since_unix })
    });
    places.collect()
}

/// The same for the follower.
pub(super) fn moves_of(places: &Places) -> Moves {
    places.iter().map(|(key, kept)| (*key, kept.at)).collect()
}
