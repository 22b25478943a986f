//! Answering the broker's look at whether an endpoint of this device is open to everybody.

use std::time::{Duration, Instant};

use warren_proto::ReachCheck;
use warren_turn::{Integrity, Message, Sha256Key};

use super::Mesh;
use crate::path::{Path, Via};
use crate::probe::keys::Tag;
use crate::probe::wire;

/// For how long a request is expected after the broker's word.
const PATIENCE: Duration = Duration::from_secs(15);

/// Requests that are answered: the broker repeats its own.
const ANSWERS: u8 = 16;

/// The shortest key that is believed.
const SHORTEST_KEY: usize = 16;

/// What is about to come.
#[derive(Debug)]
pub(super) struct Expected {
    tag: Tag,
    key: Sha256Key,
    until: Instant,
    answers_left: u8,
}

impl Mesh {
    /// The broker says that a request of [`ReachCheck`]'s is coming; it takes the place of an earlier
    /// one.
    pub fn expect_reach(&mut self, check: &ReachCheck, now: Instant) {
        let Ok(tag) = Tag::try_from(check.id.to_string().as_bytes()) else { return };
        if check.key.len() < SHORTEST_KEY {
            return;
        }
        self.reach = Some(Expected {
            tag,
            key: Sha256Key::new(check.key.as_bytes()),
            until: now + PATIENCE,
            answers_left: ANSWERS,
        });
    }

    /// Answers a request that the broker has spoken of. Nothing is learnt from where it comes: who
    /// sends it is no peer.
    pub(super) fn answer_reach(
        &mut self,
        tag: &Tag,
        from: Path,
        message: &Message<'_>,
        now: Instant,
    ) -> bool {
        let Some(expected) = &mut self.reach else { return false };
        if now >= expected.until {
            self.reach = None;
            return false;
        }
        if expected.tag != *tag || from.via != Via::Direct {
            return false;
        }
        if message.verify_sha256(&expected.key) == Integrity::Valid && expected.answers_left > 0 {
            expected.answers_left -= 1;
            let id = message.transaction_id();
            let answer = wire::response(id, from.remote, false, &expected.key);
            self.send(from, answer, false);
        }
        true
    }
}
