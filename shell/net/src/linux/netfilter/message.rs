//! nfnetlink's framing: requests, answers, attributes.
//!
//! ```text
//! nlmsghdr  length u32 · type u16 (subsystem << 8 | message) · flags u16 · sequence u32 · port u32
//! nfgenmsg  family u8 · version u8 · resource u16 (big-endian)
//! attribute length u16 · type u16 (0x8000: nested) · payload, padded to 4 bytes
//! ```

use std::io;

use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{Socket, SocketAddr};

const HEADER: usize = 16;
const GENERIC: usize = 4;
const NESTED: u16 = 0x8000;
/// The bits of an attribute's type that aren't flags.
const TYPE_MASK: u16 = 0x3fff;

pub(super) const REQUEST: u16 = 0x1;
pub(super) const ACK: u16 = 0x4;
pub(super) const DUMP: u16 = 0x300;

const ERROR: u16 = 2;
const DONE: u16 = 3;

/// How often a listing that the kernel says was changed meanwhile is begun anew.
const ATTEMPTS: usize = 8;

/// A message to the kernel.
#[derive(Debug)]
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// `kind` is the subsystem and its message; `family` an address family.
    pub(super) fn new(kind: u16, flags: u16, family: u8) -> Self {
        let mut bytes = vec![0; HEADER + GENERIC];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes[HEADER] = family;
        Self { bytes }
    }

    /// Sets the resource id of the second header.
    pub(super) fn resource(mut self, id: u16) -> Self {
        self.bytes[HEADER + 2..HEADER + 4].copy_from_slice(&id.to_be_bytes());
        self
    }

    /// Adds an attribute.
    pub(super) fn attribute(mut self, kind: u16, payload: &[u8]) -> Self {
        push(&mut self.bytes, kind, payload);
        self
    }

    /// Adds an attribute that holds others.
    pub(super) fn nested(self, kind: u16, payload: impl AsRef<[u8]>) -> Self {
        self.attribute(kind | NESTED, payload.as_ref())
    }

    /// Adds a text.
    pub(super) fn text(self, kind: u16, text: &str) -> Self {
        self.attribute(kind, &terminated(text))
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let len = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// An attribute's payload that holds attributes in turn.
#[derive(Debug, Default)]
pub(super) struct Holder(Vec<u8>);

impl Holder {
    /// Adds an attribute.
    pub(super) fn attribute(mut self, kind: u16, payload: &[u8]) -> Self {
        push(&mut self.0, kind, payload);
        self
    }

    /// Adds a number.
    pub(super) fn be32(self, kind: u16, number: u32) -> Self {
        self.attribute(kind, &number.to_be_bytes())
    }

    /// Adds a text.
    pub(super) fn text(self, kind: u16, text: &str) -> Self {
        self.attribute(kind, &terminated(text))
    }

    /// Adds an attribute that holds others.
    pub(super) fn nested(self, kind: u16, payload: impl AsRef<[u8]>) -> Self {
        self.attribute(kind | NESTED, payload.as_ref())
    }
}

impl AsRef<[u8]> for Holder {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn push(bytes: &mut Vec<u8>, kind: u16, payload: &[u8]) {
    let len = u16::try_from(payload.len() + 4).unwrap_or(u16::MAX);
    bytes.extend(len.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn terminated(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// The attributes in a payload; what is cut short ends them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Attributes<'a> {
    /// The first of a kind.
    pub(super) fn payload(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find(|(found, _)| *found == kind).map(|(_, payload)| payload)
    }

    /// The first of a kind, as a holder of others.
    pub(super) fn within(self, kind: u16) -> Option<Self> {
        self.payload(kind).map(Self)
    }

    pub(super) fn text(self, kind: u16) -> Option<String> {
        let bytes = self.payload(kind)?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }

    pub(super) fn be16(self, kind: u16) -> Option<u16> {
        self.payload(kind)?.first_chunk().copied().map(u16::from_be_bytes)
    }

    pub(super) fn be32(self, kind: u16) -> Option<u32> {
        self.payload(kind)?.first_chunk().copied().map(u32::from_be_bytes)
    }

    pub(super) fn be64(self, kind: u16) -> Option<u64> {
        self.payload(kind)?.first_chunk().copied().map(u64::from_be_bytes)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (header, _) = self.0.split_at_checked(4)?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        let payload = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    }
}

/// A blocking nfnetlink socket.
#[derive(Debug)]
pub(super) struct Nfnetlink {
    socket: Socket,
    sequence: u32,
}

impl Nfnetlink {
    /// In the network namespace of the calling thread.
    pub(super) fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Asks, and hands each answer (family and attributes) to `take`. A listing that was changed
    /// while it was read is begun anew after `restart`.
    pub(super) fn list<T: Default>(
        &mut self,
        request: impl Fn() -> Request,
        take: impl Fn(&mut T, u8, Attributes<'_>),
    ) -> io::Result<T> {
        let mut attempts = 0;
        loop {
            let mut found = T::default();
            self.send([request()])?;
            match self.answers(1, |family, attributes| take(&mut found, family, attributes)) {
                Ok(()) => return Ok(found),
                Err(error) if error.raw_os_error() == Some(libc::EINTR) && attempts < ATTEMPTS => {
                    attempts += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks for several things to be done in one transaction; `acks` of them ask for an answer.
    pub(super) fn transact(
        &mut self,
        requests: impl IntoIterator<Item = Request>,
        acks: usize,
    ) -> io::Result<()> {
        self.send(requests)?;
        self.answers(acks, |_, _| {})
    }

    fn send(&mut self, requests: impl IntoIterator<Item = Request>) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes: Vec<u8> =
            requests.into_iter().flat_map(|request| request.finish(self.sequence)).collect();
        self.socket.send(&bytes, 0).map(drop)
    }

    /// Reads until that many acknowledgements or ends of listings have come, or a refusal.
    fn answers(
        &self,
        mut expected: usize,
        mut take: impl FnMut(u8, Attributes<'_>),
    ) -> io::Result<()> {
        let mut changed = false;
        while expected > 0 {
            let (bytes, _) = self.socket.recv_from_full()?;
            for message in messages(&bytes) {
                let word = |at: usize| u16::from_ne_bytes([message[at], message[at + 1]]);
                if message[8..12] != self.sequence.to_ne_bytes() {
                    continue;
                }
                // NLM_F_DUMP_INTR
                changed |= word(6) & 0x10 != 0;
                match word(4) {
                    DONE => expected = expected.saturating_sub(1),
                    ERROR => {
                        let code = message[HEADER..].first_chunk().copied();
                        match i32::from_ne_bytes(code.unwrap_or_default()) {
                            0 => expected = expected.saturating_sub(1),
                            code => {
                                return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                            }
                        }
                    }
                    _ => {
                        if let Some(payload) = message.get(HEADER + GENERIC..) {
                            take(message[HEADER], Attributes(payload));
                        }
                    }
                }
            }
        }
        if changed { Err(io::Error::from_raw_os_error(libc::EINTR)) } else { Ok(()) }
    }
}

/// The messages in one read, each at least a header long.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let message = bytes.get(..len).filter(|message| message.len() >= HEADER)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_read_back() {
        let bytes = Request::new(0x0a01, ACK, 2).text(1, "abc").attribute(2, &[9]).finish(7);
        assert_eq!(bytes.len(), 20 + 8 + 8);
        assert_eq!(messages(&bytes).count(), 1);
        let attributes = Attributes(&bytes[20..]);
        assert_eq!(attributes.text(1).as_deref(), Some("abc"));
        assert_eq!(attributes.payload(2), Some([9].as_slice()));
        assert_eq!(attributes.payload(3), None);
    }

    #[test]
    fn what_is_cut_short_ends_the_attributes() {
        for len in 0..12 {
            let bytes = [8, 0, 1, 0, 1, 2, 3, 4, 9, 0, 2, 0];
            assert!(Attributes(&bytes[..len]).count() <= 1);
        }
        assert_eq!(messages(&[1, 0, 0, 0]).count(), 0);
        assert_eq!(Attributes(&[0, 0, 0, 0, 0, 0, 0, 0]).count(), 0);
    }
}
