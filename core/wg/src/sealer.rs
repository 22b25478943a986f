//! The hot path out.

use std::marker::PhantomData;

/// Seals packets for one peer with its current session; see [`crate::Interface::sealer`].
///
/// Good for one super-packet (at most 65,536 packets) at the time it was asked for.
#[derive(Debug)]
pub struct Sealer<'a> {
    interface: PhantomData<&'a mut ()>,
}

impl Sealer<'_> {
    /// Seals a packet in place: `slot` is [`crate::HEADROOM`] bytes, then `plaintext_len` bytes of
    /// IP packet, then at least [`crate::TAG`] bytes of room, better [`crate::TAILROOM`].
    ///
    /// Returns the length of the datagram, which begins at `slot[0]`; 0 if the slot is too small or
    /// the sealer is used up (65,536 packets), and then nothing may be sent. The plaintext is padded
    /// with zeros to a multiple of 16 as far as the slot has room.
    pub fn seal(&mut self, slot: &mut [u8], plaintext_len: usize) -> usize {
        let _ = (&self.interface, slot, plaintext_len);
        unimplemented!()
    }
}
