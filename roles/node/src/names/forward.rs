//! Passing a question on: the same bytes under a fresh id, from a fresh port (RFC 5452 §9.2), to one
//! server after the other.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rand::RngExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::timeout;

/// How long one server may take.
const PATIENCE: Duration = Duration::from_millis(2_500);
/// How often the servers are gone through over UDP.
const ROUNDS: usize = 2;
/// The header's length (RFC 1035 §4.1.1).
const HEADER: usize = 12;

/// Asks `servers` in turn until one answers.
///
/// # Errors
/// None does; or the question is none.
pub(super) async fn forward(
    question: &[u8],
    servers: &[SocketAddr],
    udp: bool,
    way: Way,
) -> io::Result<Vec<u8>> {
    if question.len() < HEADER {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut last = io::Error::from(io::ErrorKind::NotConnected);
    let rounds = if udp { ROUNDS } else { 1 };
    for server in std::iter::repeat_n(servers, rounds).flatten() {
        let asking = async {
            if udp {
                over_udp(question, *server, way).await
            } else {
                over_tcp(question, *server, way).await
            }
        };
        match timeout(PATIENCE, asking).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
        tracing::debug!(%server, error = %last, "a name server did not answer");
    }
    Err(last)
}

async fn over_udp(question: &[u8], server: SocketAddr, way: Way) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    way.mark(&socket);
    socket.connect(server).await?;
    let (asked, id) = with_fresh_id(question);
    socket.send(&asked).await?;
    let mut answer = vec![0; usize::from(u16::MAX)];
    loop {
        let len = socket.recv(&mut answer).await?;
        // Anything else is somebody's guess at the port.
        if is_answer(&asked, &answer[..len]) {
            answer.truncate(len);
            answer.shrink_to_fit();
            answer[..2].copy_from_slice(&id);
            return Ok(answer);
        }
    }
}

async fn over_tcp(question: &[u8], server: SocketAddr, way: Way) -> io::Result<Vec<u8>> {
    let socket = if server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    way.mark(&socket);
    let mut stream = socket.connect(server).await?;
    let (asked, id) = with_fresh_id(question);
    let len = u16::try_from(asked.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&len.to_be_bytes(), asked.as_slice()].concat()).await?;
    let len = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(len)];
    stream.read_exact(&mut answer).await?;
    if !is_answer(&asked, &answer) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    answer[..2].copy_from_slice(&id);
    Ok(answer)
}

/// How a question leaves the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// By the host's own network, whatever the mesh routes.
    Own,
    /// Through the mesh.
    Mesh,
}

impl Way {
    #[cfg_attr(not(target_os = "linux"), expect(unused_variables, reason = "marks are Linux's"))]
    fn mark<'s, S>(self, socket: &'s S)
    where
        socket2::SockRef<'s>: From<&'s S>,
    {
        // Without privilege there is no mark, nor a gateway that could swallow it.
        #[cfg(target_os = "linux")]
        if self == Self::Own {
            let _ = socket2::SockRef::from(socket).set_mark(warren_net::HostConfig::MARK);
        }
    }
}

/// The first question's name in lower case, without a trailing dot.
pub(super) fn name_asked(question: &[u8]) -> Option<String> {
    let section = question_section(question)?;
    let mut labels = Vec::new();
    let mut rest = section;
    while let Some((len, following)) = rest.split_first().filter(|(len, _)| **len > 0) {
        let (label, after) = following.split_at_checked(usize::from(*len))?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        rest = after;
    }
    Some(labels.join("."))
}

/// The question under a random id, and the id it had.
fn with_fresh_id(question: &[u8]) -> (Vec<u8>, [u8; 2]) {
    let mut asked = question.to_vec();
    let id = [question[0], question[1]];
    asked[..2].copy_from_slice(&rand::rng().random::<u16>().to_be_bytes());
    (asked, id)
}

/// Whether `answer` is a response with the question's id and, if it repeats one, its question.
fn is_answer(asked: &[u8], answer: &[u8]) -> bool {
    if answer.len() < HEADER || answer[..2] != asked[..2] || answer[2] & 0x80 == 0 {
        return false;
    }
    if answer[4..6] == [0, 0] {
        return true;
    }
    question_section(asked).is_some_and(|section| {
        answer
            .get(HEADER..HEADER + section.len())
            .is_some_and(|other| other.eq_ignore_ascii_case(section))
    })
}

/// The first question's bytes: its name, type and class.
pub(super) fn question_section(message: &[u8]) -> Option<&[u8]> {
    let mut at = HEADER;
    loop {
        match *message.get(at)? {
            0 => break,
            len if len < 64 => at += 1 + usize::from(len),
            // A question has nothing before it that it could point to.
            _ => return None,
        }
    }
    message.get(HEADER..at + 5)
}
