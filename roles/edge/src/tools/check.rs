//! Does it answer?

use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::scan::ScanError;
use thiserror::Error;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use warren_proto::ForwardProtocol;
use warren_scan::{Looked, PortAnswer, Refused};

/// How long something may take to answer.
const LIMIT: Duration = Duration::from_secs(2);

/// Why nothing was asked.
#[derive(Debug, Error)]
pub enum CheckError {
    /// The edge isn't told to open it.
    #[error(
        "that port forward isn't to be open at present: it is turned off, out of its hours, or the edge hasn't \
         heard of it yet"
    )]
    Unknown,
    /// It can't be opened.
    #[error("that port forward isn't open: {0}")]
    NotOpen(String),
    /// The target is none of a LAN.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Nor is it one of a LAN as others see it.
    #[error(transparent)]
    NoLan(#[from] ScanError),
}

pub(super) async fn look(target: Ipv4Addr, protocol: ForwardProtocol, port: u16) -> Looked {
    let (mut tcp, mut udp) = (None, None);
    match protocol {
        ForwardProtocol::Tcp => tcp = Some(by_tcp(target, port).await),
        ForwardProtocol::Udp => udp = Some(by_udp(target, port).await),
        ForwardProtocol::Both => {
            let (by_tcp, by_udp) = tokio::join!(by_tcp(target, port), by_udp(target, port));
            (tcp, udp) = (Some(by_tcp), Some(by_udp));
        }
    }
    Looked { target, port, tcp, udp }
}

async fn by_tcp(target: Ipv4Addr, port: u16) -> PortAnswer {
    let begun = Instant::now();
    match timeout(LIMIT, TcpStream::connect((target, port))).await {
        Ok(Ok(_)) => PortAnswer::Answers { us: micros(begun) },
        Ok(Err(error)) => failed(&error),
        Err(_) => PortAnswer::Silent,
    }
}

/// An empty datagram: few services answer it, but a closed port is refused by ICMP.
async fn by_udp(target: Ipv4Addr, port: u16) -> PortAnswer {
    let begun = Instant::now();
    let ask = async {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        socket.connect((target, port)).await?;
        socket.send(&[]).await?;
        socket.recv(&mut [0; 64]).await
    };
    match timeout(LIMIT, ask).await {
        Ok(Ok(_)) => PortAnswer::Answers { us: micros(begun) },
        Ok(Err(error)) => failed(&error),
        Err(_) => PortAnswer::Silent,
    }
}

fn failed(error: &io::Error) -> PortAnswer {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        PortAnswer::Closed
    } else {
        PortAnswer::Silent
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

    #[tokio::test]
    async fn what_listens_answers_and_what_does_not_is_closed() {
        let listener = tokio::net::TcpListener::bind((HERE, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let looked = look(HERE, ForwardProtocol::Both, port).await;
        assert!(matches!(looked.tcp, Some(PortAnswer::Answers { .. })), "{looked:?}");
        assert_eq!(looked.udp, Some(PortAnswer::Closed));
        drop(listener);
        let looked = look(HERE, ForwardProtocol::Tcp, port).await;
        assert_eq!((looked.tcp, looked.udp), (Some(PortAnswer::Closed), None));
    }
}
