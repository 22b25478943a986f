use subtle::ConstantTimeEq as _;
use thiserror::Error;

use super::parts::Parts;
use super::{GUID_AT, Guid, HEADER_BYTES, Handshake, MAC_AT, MAGIC, Proof};
use crate::key::Key;

/// Why a datagram is no handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotHandshake {
    /// It doesn't begin with the magic.
    #[error("data")]
    Data,
    /// It begins with the magic, but is shorter than a header.
    #[error("shorter than a handshake")]
    Short,
    /// Its GUID is zero.
    #[error("the GUID is zero")]
    ZeroGuid,
    /// Its MAC isn't ours.
    #[error("wrong MAC")]
    WrongMac,
    /// It is longer than [`MAX_DATAGRAM`](super::MAX_DATAGRAM).
    #[error("too long")]
    TooLong,
}

/// Tells handshakes from data, and writes them: the same at a relay and its clients.
#[derive(Debug, Clone)]
pub struct Authenticator {
    magic: [u8; 4],
    key: Option<Key>,
}

impl Authenticator {
    /// Checks MACs by `key`; without one, everybody's handshakes are genuine.
    pub fn new(key: Option<Key>) -> Self {
        Self { magic: MAGIC.to_be_bytes(), key }
    }

    /// Uses another magic.
    #[must_use]
    pub fn with_magic(self, magic: u32) -> Self {
        Self { magic: magic.to_be_bytes(), ..self }
    }

    /// The key, if there is one.
    pub fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    /// Whether this begins as a handshake does.
    pub(crate) fn begins_like_handshake(&self, datagram: &[u8]) -> bool {
        datagram.starts_with(&self.magic)
    }

    /// Reads one datagram.
    ///
    /// # Errors
    ///
    /// [`NotHandshake`]; never [`TooLong`](NotHandshake::TooLong), which is the relay's own limit.
    pub fn read(&self, datagram: &[u8]) -> Result<Handshake, NotHandshake> {
        if !self.begins_like_handshake(datagram) {
            return Err(NotHandshake::Data);
        }
        let Some((header, extensions)) = datagram.split_first_chunk::<HEADER_BYTES>() else {
            return Err(NotHandshake::Short);
        };
        let mut guid = [0; 16];
        guid.copy_from_slice(&header[GUID_AT..MAC_AT]);
        let guid = Guid::new(guid).ok_or(NotHandshake::ZeroGuid)?;
        let Some(key) = &self.key else { return Ok(Handshake { guid, proof: None }) };
        let mac = key.mac(&[&header[..MAC_AT], &[0; 32], extensions]);
        if !bool::from(mac.ct_eq(&header[MAC_AT..])) {
            return Err(NotHandshake::WrongMac);
        }
        Ok(Handshake { guid, proof: Proof::find(extensions) })
    }

    /// Writes a handshake with these bytes as its extensions, at most 65,535.
    pub fn write(&self, guid: Guid, extensions: &[u8]) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(HEADER_BYTES + extensions.len());
        datagram.extend_from_slice(&self.magic);
        datagram.extend_from_slice(&(extensions.len() as u16).to_be_bytes());
        datagram.extend_from_slice(&[0; 2]);
        datagram.extend_from_slice(guid.as_bytes());
        datagram.extend_from_slice(&[0; 32]);
        datagram.extend_from_slice(extensions);
        if let Some(key) = &self.key {
            let mac = key.mac(&[&datagram]);
            datagram[MAC_AT..HEADER_BYTES].copy_from_slice(&mac);
        }
        datagram
    }

    /// Goes through a run of datagrams of `stride` bytes, the last perhaps shorter.
    pub fn parts<'a>(&'a self, run: &'a [u8], stride: usize) -> Parts<'a> {
        Parts::new(self, run, stride)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::WELL_KNOWN_KEY;

    const VECTOR: &str = "04b28000000000000000000100000002000000030000000484b8184fb83a35766a11fc9c925c52aa56f3fcc57a58fbb0eaa96a278fffda58";

    fn original() -> Authenticator {
        Authenticator::new(Some(Key::from_base64(WELL_KNOWN_KEY).unwrap()))
    }

    fn guid() -> Guid {
        Guid::from_words([1, 2, 3, 4]).unwrap()
    }

    #[test]
    fn the_originals_handshake_comes_out_byte_by_byte_and_is_read_back() {
        let datagram = original().write(guid(), &[]);
        let hex: String = datagram.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, VECTOR);
        assert_eq!(original().read(&datagram), Ok(Handshake { guid: guid(), proof: None }));
    }

    #[test]
    fn any_changed_byte_makes_it_no_handshake() {
        let datagram = original().write(guid(), b"extension");
        for at in 0..datagram.len() {
            let mut changed = datagram.clone();
            changed[at] ^= 1;
            let expected = if at < 4 { NotHandshake::Data } else { NotHandshake::WrongMac };
            assert_eq!(original().read(&changed), Err(expected), "byte {at}");
        }
        for length in 0..datagram.len() {
            assert!(original().read(&datagram[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_length_that_disagrees_with_the_datagram_is_accepted() {
        let authenticator = original();
        let mut datagram = authenticator.write(guid(), b"extension");
        datagram[4..6].copy_from_slice(&500_u16.to_be_bytes());
        datagram[MAC_AT..HEADER_BYTES].fill(0);
        let mac = authenticator.key().unwrap().mac(&[&datagram]);
        datagram[MAC_AT..HEADER_BYTES].copy_from_slice(&mac);
        assert!(authenticator.read(&datagram).is_ok());
    }

    #[test]
    fn without_a_key_there_are_no_macs_and_no_proofs() {
        let proof = Proof { time: 1, nonce: [2; 16] };
        let signed = original().write(guid(), &proof.to_bytes());
        assert_eq!(original().read(&signed).unwrap().proof, Some(proof));
        let open = Authenticator::new(None);
        assert_eq!(open.read(&signed), Ok(Handshake { guid: guid(), proof: None }));
        assert_eq!(open.write(guid(), &[])[MAC_AT..], [0; 32]);
        assert_eq!(open.read(&[0; 56]), Err(NotHandshake::Data));
    }

    #[test]
    fn another_magic_makes_another_relay() {
        let other = original().with_magic(0x0102_0304);
        let datagram = other.write(guid(), &[]);
        assert_eq!(original().read(&datagram), Err(NotHandshake::Data));
        assert!(other.read(&datagram).is_ok());
    }
}
