//! Packets that go elsewhere than to the TUN device.
//!
//! Somebody in this process may answer for addresses and ports in the host's place: what comes out of
//! the tunnel for them is his ([`Diverter`]), after it was judged like everything else, and what he
//! sends goes into the tunnel as if the host had. Both ways are bounded; what finds no room on the way
//! in is lost, as it would be on the wire.

use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard, mpsc, watch};

/// Packets that wait in either direction.
const QUEUE: usize = 512;

/// TCP, UDP (IANA's 'Protocol Numbers').
const WITH_PORTS: [u8; 2] = [6, 17];

/// Whether a packet to an address is taken, by its protocol and destination port; the port of one
/// without ports, and of a later fragment, is 0.
pub type Takes = dyn Fn(Ipv4Addr, u8, u16) -> bool + Send + Sync;

#[derive(Clone)]
struct Diversion {
    takes: Arc<Takes>,
    packets: mpsc::Sender<Vec<u8>>,
}

/// The end of who answers in the host's place.
#[derive(Clone)]
pub struct Diverter {
    diversion: Arc<watch::Sender<Option<Diversion>>>,
    answers: mpsc::Sender<Vec<u8>>,
}

/// The end of who has the tunnel.
#[derive(Clone)]
pub struct Diverted {
    diversion: watch::Receiver<Option<Diversion>>,
    answers: Arc<Mutex<mpsc::Receiver<Vec<u8>>>>,
}

/// Makes both ends.
pub fn diversion() -> (Diverter, Diverted) {
    let (diversion, told) = watch::channel(None);
    let (sender, answers) = mpsc::channel(QUEUE);
    (
        Diverter { diversion: Arc::new(diversion), answers: sender },
        Diverted { diversion: told, answers: Arc::new(Mutex::new(answers)) },
    )
}

impl Diverter {
    /// From now on what `takes` takes comes here, and to nobody before.
    pub fn divert(&self, takes: Arc<Takes>) -> mpsc::Receiver<Vec<u8>> {
        let (packets, receiver) = mpsc::channel(QUEUE);
        self.diversion.send_replace(Some(Diversion { takes, packets }));
        receiver
    }

    /// Takes something else, by the channel that [`Self::divert`] has given.
    pub fn change(&self, takes: Arc<Takes>) {
        self.diversion.send_modify(|diversion| {
            if let Some(diversion) = diversion {
                diversion.takes = takes;
            }
        });
    }

    /// Everything is the host's again.
    pub fn end(&self) {
        self.diversion.send_replace(None);
    }

    /// Where packets for the tunnel go.
    pub fn answers(&self) -> &mpsc::Sender<Vec<u8>> {
        &self.answers
    }
}

impl Diverted {
    /// To use it: one at a time, the next waits for the last one's end.
    pub fn open(&self) -> Intake {
        let mut told = self.diversion.clone();
        let present = told.borrow_and_update().clone();
        Intake { told, present, answers: Arc::clone(&self.answers), held: None }
    }
}

/// The use of a [`Diverted`].
pub struct Intake {
    told: watch::Receiver<Option<Diversion>>,
    present: Option<Diversion>,
    answers: Arc<Mutex<mpsc::Receiver<Vec<u8>>>>,
    held: Option<OwnedMutexGuard<mpsc::Receiver<Vec<u8>>>>,
}

impl Intake {
    /// Whether a packet out of the tunnel was taken; it isn't the host's then.
    pub fn take(&mut self, packet: &[u8]) -> bool {
        if self.told.has_changed().unwrap_or(false) {
            self.present = self.told.borrow_and_update().clone();
        }
        let Some(diversion) = &self.present else { return false };
        let Some((address, protocol, port)) = destination(packet) else { return false };
        if !(diversion.takes)(address, protocol, port) {
            return false;
        }
        // Whoever sent it sends it again, or doesn't mind.
        let _ = diversion.packets.try_send(packet.to_vec());
        true
    }

    /// The next packet for the tunnel. Nothing is lost if it is dropped.
    pub async fn answer(&mut self) -> Vec<u8> {
        let held = match &mut self.held {
            Some(held) => held,
            None => {
                let held = Arc::clone(&self.answers).lock_owned().await;
                self.held.insert(held)
            }
        };
        match held.recv().await {
            Some(packet) => packet,
            // Nobody is left who could send.
            None => std::future::pending().await,
        }
    }

    /// One more, if it is there.
    pub fn try_answer(&mut self) -> Option<Vec<u8>> {
        self.held.as_mut()?.try_recv().ok()
    }
}

/// Where an IPv4 packet goes: its address, protocol and port.
fn destination(packet: &[u8]) -> Option<(Ipv4Addr, u8, u16)> {
    let header: &[u8; 20] = packet.first_chunk()?;
    if header[0] >> 4 != 4 {
        return None;
    }
    let address = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
    let protocol = header[9];
    let is_later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1FFF != 0;
    if is_later_fragment || !WITH_PORTS.contains(&protocol) {
        return Some((address, protocol, 0));
    }
    let ports = packet.get(usize::from(header[0] & 0xF) * 4..)?;
    let port = ports.get(2..4)?;
    Some((address, protocol, u16::from_be_bytes([port[0], port[1]])))
}

impl std::fmt::Debug for Diverter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Diverter").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Diverted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Diverted").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TCP to 100.80.0.1:8080.
    fn packet() -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x45;
        packet[9] = 6;
        packet[16..20].copy_from_slice(&[100, 80, 0, 1]);
        packet[22..24].copy_from_slice(&8080_u16.to_be_bytes());
        packet
    }

    #[test]
    fn what_is_taken_comes_to_the_diverter_and_the_rest_is_the_hosts() {
        let (diverter, diverted) = diversion();
        let mut intake = diverted.open();
        assert!(!intake.take(&packet()));
        let mut packets =
            diverter.divert(Arc::new(|_, protocol, port| (protocol, port) == (6, 8080)));
        assert!(intake.take(&packet()));
        assert_eq!(packets.try_recv().unwrap(), packet());
        let mut other = packet();
        other[9] = 17;
        assert!(!intake.take(&other));
        let mut fragment = packet();
        fragment[7] = 3;
        assert!(!intake.take(&fragment), "it has no port");
        for len in 0..24 {
            assert!(!intake.take(&packet()[..len]), "{len}");
        }
        diverter.change(Arc::new(|address, _, _| address.octets()[3] == 1));
        assert!(intake.take(&fragment) && packets.try_recv().is_ok());
        diverter.end();
        assert!(!intake.take(&packet()));
    }

    #[test]
    fn who_is_slow_loses_packets_and_nobody_waits_for_him() {
        let (diverter, diverted) = diversion();
        let mut intake = diverted.open();
        let mut packets = diverter.divert(Arc::new(|_, _, _| true));
        for _ in 0..QUEUE * 2 {
            assert!(intake.take(&packet()));
        }
        let held = std::iter::from_fn(|| packets.try_recv().ok()).count();
        assert_eq!(held, QUEUE);
    }

    #[tokio::test]
    async fn answers_come_to_the_one_that_has_the_tunnel_at_the_time() {
        let (diverter, diverted) = diversion();
        let mut first = diverted.open();
        diverter.answers().send(vec![1]).await.unwrap();
        assert_eq!(first.answer().await, [1]);
        let mut second = diverted.open();
        diverter.answers().send(vec![2]).await.unwrap();
        let early = tokio::time::timeout(std::time::Duration::from_millis(20), second.answer());
        assert!(early.await.is_err(), "the first one has it");
        drop(first);
        assert_eq!(second.answer().await, [2]);
        assert_eq!(second.try_answer(), None);
    }
}
