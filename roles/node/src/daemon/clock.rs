use std::path::Path;
use std::time::{Duration, Instant};

use super::{Daemon, wall_clock};
use crate::local::HealthCode;
use crate::state::clock::{RESERVE, floor, is_plausible, set_floor};

/// A broker's clock may differ by this much before a person is told.
const TOLERANCE: Duration = Duration::from_secs(3_600);

/// WireGuard's clock, as far as this process can know it: the largest of the wall clock, the
/// persisted floor at the start and the broker's clock, each plus what has passed since.
#[derive(Debug)]
pub(super) struct Clock {
    /// What is written in the state folder.
    floor: Duration,
    known: (Instant, Duration),
}

impl Clock {
    pub(super) fn load(folder: &Path) -> Self {
        let floor = floor(folder);
        Self { floor, known: (Instant::now(), floor) }
    }

    /// The time since the Unix epoch, as well as it is known.
    pub(super) fn now(&self) -> Duration {
        let (at, unix) = self.known;
        wall_clock().max(unix + at.elapsed())
    }

    fn raise(&mut self, unix: Duration) {
        if unix > self.now() {
            self.known = (Instant::now(), unix);
        }
    }
}

impl Daemon {
    /// What a new mesh's clock starts at. The floor is written ahead first, so that no timestamp
    /// is used twice whatever happens.
    pub(super) fn start_clock(&mut self) -> Duration {
        let start = self.clock.now();
        self.clock.raise(start);
        self.keep_clock();
        start
    }

    /// Moves the floor on when the clock comes near it.
    pub(super) fn keep_clock(&mut self) {
        let now = self.clock.now();
        if now + RESERVE / 2 >= self.clock.floor {
            self.write_floor(now + RESERVE);
        }
    }

    /// The mesh has ended: no later timestamp than now was used.
    pub(super) fn settle_clock(&mut self) {
        self.write_floor(self.clock.now());
    }

    fn write_floor(&mut self, floor: Duration) {
        match set_floor(self.folder.path(), floor) {
            Ok(()) => self.clock.floor = floor,
            Err(error) => self.note_unsaved(&error),
        }
    }

    /// Takes note of the broker's clock.
    pub(super) async fn take_broker_clock(&mut self, unix: Duration) {
        let off = wall_clock().abs_diff(unix);
        let text = (off > TOLERANCE).then(|| {
            format!(
                "this machine's clock differs from the broker's by {} h; set it (timedatectl set-ntp true)",
                off.as_secs() / 3_600
            )
        });
        self.healths.put(HealthCode::ClockOff, text);
        if !is_plausible(unix) {
            return;
        }
        if unix > self.clock.now() {
            self.clock.raise(unix);
            self.keep_clock();
        }
        // A clock that is ahead must be known too: the day is part of what probes are known by.
        if let Some(mesh) = &self.mesh {
            mesh.client().raise_clock(unix).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_clock_goes_on_from_its_floor_and_takes_the_broker_s_time() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Clock::load(folder.path()).now() <= wall_clock(), "no floor, no change");
        let day = Duration::from_secs(86_400);
        let ahead = wall_clock() + day;
        set_floor(folder.path(), ahead).unwrap();
        let mut clock = Clock::load(folder.path());
        assert!(clock.now() >= ahead, "as if the wall clock had lost a day");
        clock.raise(wall_clock());
        assert!(clock.now() >= ahead, "it never goes back");
        clock.raise(ahead + day);
        assert!(clock.now() >= ahead + day);
    }
}
