//! Ports for servers of tests that are told where to listen.

use std::net::{TcpListener, UdpSocket};
use std::process;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below what the system gives out by itself (32,768 and up), so that no connection of a test that runs
/// beside this one takes the port before its server does.
const FIRST: u16 = 12_000;
const PER_PROCESS: u16 = 20;
const PROCESSES: u32 = 1000;

/// A port of 127.0.0.1 that is free for TCP and UDP, and that neither this process nor, most likely, one of
/// the thousand that were started before and after it gets as well.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let slice = u16::try_from(process::id() % PROCESSES).unwrap();
    loop {
        let port = FIRST + slice * PER_PROCESS + NEXT.fetch_add(1, Ordering::Relaxed) % PER_PROCESS;
        let address = ("127.0.0.1", port);
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return port;
        }
    }
}
