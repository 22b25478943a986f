//! The bare forwarder: runs in by UDP_GRO, out by UDP_SEGMENT, from the same buffer, to where the
//! source port says. What a relay does beyond this is its own cost.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use warren_net::{ServerSocket, ServerSocketConfig, UdpReceiver};

use crate::flows::{Direction, FIRST_CLIENT, OTHER_CLIENT, PEER_PORT};
use crate::stage::{CLIENT, LISTEN, PEER, RELAYED, TURN_PORT};

pub(crate) fn forward(direction: &str) -> Result<()> {
    let direction = Direction::named(direction).context("a direction")?;
    let open = |ip| ServerSocket::bind(&ServerSocketConfig::new((ip, TURN_PORT).into()));
    let (clients, peers) = (open(LISTEN)?, open(RELAYED)?);
    let mut receiver = UdpReceiver::new();
    loop {
        let socket = if direction == Direction::Down { &peers } else { &clients };
        poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
        loop {
            let runs = match socket.try_recv(&mut receiver) {
                Ok(runs) => runs,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => continue,
            };
            let is_full = runs.is_full();
            for run in runs {
                let port = run.remote.port();
                let (out, to) = match direction {
                    Direction::Up => (&peers, (PEER, port - FIRST_CLIENT + PEER_PORT)),
                    Direction::Down => (&clients, (CLIENT, port - PEER_PORT + FIRST_CLIENT)),
                    Direction::Across => (&clients, (CLIENT, port - FIRST_CLIENT + OTHER_CLIENT)),
                };
                out.send_run(SocketAddr::from(to), run.bytes, run.stride);
            }
            if !is_full {
                break;
            }
        }
    }
}
