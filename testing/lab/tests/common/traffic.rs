//! What runs through tunnels while something happens to them.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use warren_lab::{Host, wait_until};

/// A TCP connection through the tunnel that carries a byte each 10 ms and measures the gaps.
pub(crate) struct Stream {
    gap_us: &'static AtomicU32,
    bytes: &'static AtomicU32,
    stop: &'static AtomicBool,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Stream {
    /// From `client` to `server`, who has the mesh address `address`.
    pub(crate) fn start(client: &Host, server: &Host, address: Ipv4Addr) -> Result<Self> {
        let leaked = || -> &'static AtomicU32 { Box::leak(Box::default()) };
        let (gap_us, bytes) = (leaked(), leaked());
        let stop: &'static AtomicBool = Box::leak(Box::default());
        let listener = server.enter(|| TcpListener::bind((address, 4000)))??;
        let mut sending = client.enter(|| TcpStream::connect((address, 4000)))??;
        sending.set_nodelay(true)?;
        let (mut receiving, _) = listener.accept()?;
        let sender = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                sending.write_all(&[1])?;
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(())
        });
        let receiver = std::thread::spawn(move || {
            let mut last = Instant::now();
            let mut buffer = [0; 4096];
            loop {
                let length = receiving.read(&mut buffer)?;
                if length == 0 {
                    return Ok(());
                }
                let gap = u32::try_from(last.elapsed().as_micros()).unwrap_or(u32::MAX);
                last = Instant::now();
                gap_us.fetch_max(gap, Ordering::Relaxed);
                bytes.fetch_add(u32::try_from(length)?, Ordering::Relaxed);
            }
        });
        Ok(Self { gap_us, bytes, stop, threads: vec![sender, receiver] })
    }

    /// Waits until so many more bytes have arrived.
    pub(crate) fn flows(&self, what: &str, limit: Duration) -> Result<Duration> {
        let goal = self.bytes.load(Ordering::Relaxed) + 50;
        wait_until(what, limit, || Ok(self.bytes.load(Ordering::Relaxed) >= goal))
    }

    /// The longest gap so far.
    pub(crate) fn gap(&self) -> Duration {
        Duration::from_micros(u64::from(self.gap_us.load(Ordering::Relaxed)))
    }

    /// The longest gap so far; the count begins anew.
    pub(crate) fn take_gap(&self) -> Duration {
        Duration::from_micros(u64::from(self.gap_us.swap(0, Ordering::Relaxed)))
    }

    /// Ends it; an error of either side comes out here.
    pub(crate) fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no panic")?;
        }
        Ok(())
    }
}

/// Numbered datagrams through the tunnel, one each 5 ms.
pub(crate) struct Numbered {
    sent: &'static AtomicU32,
    stop: &'static AtomicBool,
    sender: JoinHandle<Result<()>>,
    receiver: JoinHandle<Result<BTreeSet<u32>>>,
}

impl Numbered {
    /// From `client` to `server`, who has the mesh address `address`.
    pub(crate) fn start(client: &Host, server: &Host, address: Ipv4Addr) -> Result<Self> {
        let sent: &'static AtomicU32 = Box::leak(Box::default());
        let stop: &'static AtomicBool = Box::leak(Box::default());
        let receiving = server.enter(|| UdpSocket::bind((address, 4001)))??;
        receiving.set_read_timeout(Some(Duration::from_secs(2)))?;
        let sending = client.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        sending.connect((address, 4001))?;
        let sender = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let number = sent.load(Ordering::Relaxed);
                sending.send(&number.to_be_bytes())?;
                sent.store(number + 1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        });
        let receiver = std::thread::spawn(move || {
            let mut heard = BTreeSet::new();
            let mut buffer = [0; 4];
            loop {
                match receiving.recv(&mut buffer) {
                    Ok(_) => {
                        heard.insert(u32::from_be_bytes(buffer));
                    }
                    Err(_) if stop.load(Ordering::Relaxed) => return Ok(heard),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
        });
        Ok(Self { sent, stop, sender, receiver })
    }

    /// The number of the next one.
    pub(crate) fn next(&self) -> u32 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it; how many were sent from `first` on, and which of them did not arrive.
    pub(crate) fn finish(self, first: u32) -> Result<(u32, Vec<u32>)> {
        self.stop.store(true, Ordering::Relaxed);
        self.sender.join().expect("no panic").context("sending")?;
        let heard = self.receiver.join().expect("no panic").context("receiving")?;
        let end = self.sent.load(Ordering::Relaxed);
        let lost = (first..end).filter(|number| !heard.contains(number)).collect();
        Ok((end - first, lost))
    }
}
