use std::ops::Range;

use super::authenticator::{Authenticator, NotHandshake};
use super::{Handshake, MAX_DATAGRAM};

/// What a part of a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One genuine handshake.
    Handshake(Handshake),
    /// Datagrams that are none, and why the first of them isn't.
    Other(NotHandshake),
}

/// Datagrams of a run that are treated alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Where they lie in the run.
    pub range: Range<usize>,
    /// How many they are.
    pub datagrams: usize,
    /// What they are.
    pub kind: Kind,
}

/// The parts of a run, in order; see [`Authenticator::parts`]. An empty run is one empty datagram.
#[derive(Debug)]
pub struct Parts<'a> {
    authenticator: &'a Authenticator,
    run: &'a [u8],
    stride: usize,
    at: usize,
    done: bool,
}

impl<'a> Parts<'a> {
    pub(super) fn new(authenticator: &'a Authenticator, run: &'a [u8], stride: usize) -> Self {
        Self { authenticator, run, stride: stride.max(1), at: 0, done: false }
    }

    /// The datagram that begins at `at`.
    fn datagram(&self, at: usize) -> &'a [u8] {
        &self.run[at..(at + self.stride).min(self.run.len())]
    }

    fn rest(&self, reason: NotHandshake) -> Part {
        let range = self.at..self.run.len();
        let datagrams = range.len().div_ceil(self.stride).max(1);
        Part { range, datagrams, kind: Kind::Other(reason) }
    }

    /// Data up to the next datagram that begins like a handshake.
    fn data(&self) -> Part {
        let mut part = self.rest(NotHandshake::Data);
        let mut at = self.at + self.stride;
        while at < self.run.len() {
            if self.authenticator.begins_like_handshake(&self.run[at..]) {
                part.range.end = at;
                part.datagrams = part.range.len() / self.stride;
                break;
            }
            at += self.stride;
        }
        part
    }

    fn part(&self) -> Part {
        let datagram = self.datagram(self.at);
        if datagram.len() > MAX_DATAGRAM {
            return self.rest(NotHandshake::TooLong);
        }
        let kind = match self.authenticator.read(datagram) {
            Ok(handshake) => Kind::Handshake(handshake),
            Err(NotHandshake::Data) => return self.data(),
            Err(reason) => Kind::Other(reason),
        };
        Part { range: self.at..self.at + datagram.len(), datagrams: 1, kind }
    }
}

impl Iterator for Parts<'_> {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        if self.done {
            return None;
        }
        let part = self.part();
        self.at = part.range.end;
        self.done = self.at >= self.run.len();
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;
    use crate::wire::{Guid, HEADER_BYTES};

    fn authenticator() -> Authenticator {
        Authenticator::new(Some(Key::from_base64("c2VjcmV0").unwrap()))
    }

    fn kinds(run: &[u8], stride: usize) -> Vec<(Range<usize>, usize, Option<NotHandshake>)> {
        let authenticator = authenticator();
        let parts = authenticator.parts(run, stride);
        let kind = |kind| match kind {
            Kind::Handshake(_) => None,
            Kind::Other(reason) => Some(reason),
        };
        parts.map(|part| (part.range, part.datagrams, kind(part.kind))).collect()
    }

    #[test]
    fn data_is_one_part_however_many_datagrams_it_is() {
        let data = Some(NotHandshake::Data);
        assert_eq!(kinds(&[1; 1000], 300), [(0..1000, 4, data)]);
        assert_eq!(kinds(&[1; 900], 300), [(0..900, 3, data)]);
        assert_eq!(kinds(&[], 0), [(0..0, 1, data)]);
        assert_eq!(kinds(&[4], 1), [(0..1, 1, data)]);
    }

    #[test]
    fn handshakes_amid_data_are_parts_of_their_own() {
        let handshake = authenticator().write(Guid::new([7; 16]).unwrap(), &[]);
        let mut wrong = handshake.clone();
        wrong[30] ^= 1;
        let data = [0; HEADER_BYTES];
        let run = [&data[..], &data, &handshake, &wrong, &data, &handshake[..20]].concat();
        let expected = [
            (0..112, 2, Some(NotHandshake::Data)),
            (112..168, 1, None),
            (168..224, 1, Some(NotHandshake::WrongMac)),
            (224..280, 1, Some(NotHandshake::Data)),
            (280..300, 1, Some(NotHandshake::Short)),
        ];
        assert_eq!(kinds(&run, HEADER_BYTES), expected);
    }

    #[test]
    fn what_is_longer_than_a_frame_is_too_long() {
        assert_eq!(kinds(&[1; 1472], 1472), [(0..1472, 1, Some(NotHandshake::Data))]);
        assert_eq!(kinds(&[1; 1473], 1473), [(0..1473, 1, Some(NotHandshake::TooLong))]);
        assert_eq!(kinds(&[1; 3000], 1500), [(0..3000, 2, Some(NotHandshake::TooLong))]);
    }
}
