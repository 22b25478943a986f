//! HTTP proxies (RFC 9110 §9.3.6, CONNECT), as the environment names them: `HTTPS_PROXY`, or
//! `https_proxy`, is `http://[USER:PASSWORD@]HOST:PORT`; `NO_PROXY` lists hosts, domains and
//! networks that are reached without it (`*`: all).

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::connect::dial_directly;

/// The longest head of an answer that is taken, in bytes.
const MAX_HEAD: usize = 8 * 1024;

/// How long the proxy may take to connect.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A proxy.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    host: String,
    port: u16,
    /// For the Proxy-Authorization header: a secret.
    authorization: Option<String>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Proxy({}:{})", self.host, self.port)
    }
}

impl Proxy {
    /// The proxy for connections to a host, if the environment names one.
    pub(crate) fn for_host(host: &str) -> Option<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let either = |upper: &str, lower: &str| variable(upper).or_else(|| variable(lower));
        let exceptions = either("NO_PROXY", "no_proxy").unwrap_or_default();
        if is_excepted(host, &exceptions) {
            return None;
        }
        let url = either("HTTPS_PROXY", "https_proxy")?;
        let proxy = Self::parse(&url);
        if proxy.is_none() {
            tracing::warn!("HTTPS_PROXY is no http:// URL, so no proxy is used");
        }
        proxy
    }

    fn parse(url: &str) -> Option<Self> {
        let uri: http::Uri = if url.contains("://") {
            url.parse().ok()?
        } else {
            format!("http://{url}").parse().ok()?
        };
        if uri.scheme_str() != Some("http") {
            return None;
        }
        let authority = uri.authority()?;
        let authorization = authority
            .as_str()
            .rsplit_once('@')
            .map(|(user, _)| format!("Basic {}", STANDARD.encode(unescape(user))));
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return None;
        }
        Some(Self { host, port: authority.port_u16().unwrap_or(80), authorization })
    }

    /// A connection to `host` through the proxy, and how long the proxy took for it.
    ///
    /// # Errors
    /// The proxy can't be reached, or refuses. They name it, as otherwise people look for the fault
    /// at the host that they wanted.
    pub(crate) async fn open(&self, host: &str, port: u16) -> io::Result<(TcpStream, Duration)> {
        let opened = async {
            let mut stream = dial_directly(&self.host, self.port).await?;
            let took = self.connect(&mut stream, host, port).await?;
            Ok((stream, took))
        };
        opened.await.map_err(|error: io::Error| {
            let proxy = format!("the HTTP proxy {}:{} (HTTPS_PROXY)", self.host, self.port);
            io::Error::new(error.kind(), format!("{proxy} doesn't connect: {error}"))
        })
    }

    /// Asks the proxy, over a connection to it, for one to `host`; how long that took.
    ///
    /// # Errors
    /// Its refusal, with its status, or an answer that makes no sense.
    async fn connect(&self, stream: &mut TcpStream, host: &str, port: u16) -> io::Result<Duration> {
        let begun = Instant::now();
        let exchange = tokio::time::timeout(TIMEOUT, self.exchange(stream, host, port));
        exchange.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(begun.elapsed())
    }

    async fn exchange(&self, stream: &mut TcpStream, host: &str, port: u16) -> io::Result<()> {
        // The request is text: a name with a space or a line's end in it would change its meaning.
        if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "that is no host's name"));
        }
        let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let target = format!("{bracketed}:{port}");
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(authorization) = &self.authorization {
            request.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await?;
        // Byte by byte at the end: what follows the head belongs to the tunnel.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() >= MAX_HEAD {
                return Err(refusal("its answer is too long"));
            }
            head.push(stream.read_u8().await?);
        }
        match status(&head) {
            Some(200..=299) => Ok(()),
            Some(407) => Err(refusal(
                "it answers 407: it wants a user and password, as http://USER:PASSWORD@HOST:PORT",
            )),
            Some(status) => Err(refusal(&format!("it answers {status}"))),
            None => Err(refusal("it doesn't speak HTTP")),
        }
    }
}

fn refusal(why: &str) -> io::Error {
    io::Error::other(why.to_owned())
}

/// The status code in the head of an answer.
fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?;
    line.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
}

/// Percent-decoding (RFC 3986 §2.1) of a user name and password.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let escaped = (byte == b'%').then(|| {
            let digits = [bytes.clone().next()?, bytes.clone().nth(1)?];
            u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()
        });
        match escaped.flatten() {
            Some(value) => {
                bytes.nth(1);
                out.push(value);
            }
            None => out.push(byte),
        }
    }
    out
}

/// Whether a host is one that is reached without a proxy.
fn is_excepted(host: &str, exceptions: &str) -> bool {
    let ip: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || ip.is_some_and(|ip| ip.is_loopback()) {
        return true;
    }
    exceptions.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        if entry == "*" {
            return true;
        }
        if let (Some(ip), Ok(net)) = (ip, entry.parse::<IpNet>()) {
            return net.contains(&ip);
        }
        let domain = entry.trim_start_matches('.');
        host.eq_ignore_ascii_case(domain)
            || host
                .to_ascii_lowercase()
                .strip_suffix(&domain.to_ascii_lowercase())
                .is_some_and(|rest| rest.ends_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_proxy_is_read_with_its_user() {
        let proxy = Proxy::parse("http://me:p%40ss@proxy.example:3128").unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("proxy.example", 3128));
        assert_eq!(proxy.authorization.as_deref(), Some("Basic bWU6cEBzcw=="));
        assert_eq!(Proxy::parse("proxy:8080").unwrap().port, 8080);
        assert_eq!(Proxy::parse("http://[2001:db8::1]:1").unwrap().host, "2001:db8::1");
        for bad in ["socks5://proxy:1080", "https://proxy", "http://"] {
            assert_eq!(Proxy::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn exceptions_are_hosts_domains_and_networks() {
        let list = "example.org, .internal 10.0.0.0/8,192.0.2.7";
        for host in ["example.org", "a.Example.org", "x.internal", "10.1.2.3", "192.0.2.7"] {
            assert!(is_excepted(host, list), "{host}");
        }
        for host in ["notexample.org", "example.com", "11.0.0.1", "192.0.2.8"] {
            assert!(!is_excepted(host, list), "{host}");
        }
        assert!(is_excepted("anything", "*") && is_excepted("127.0.0.1", ""));
    }

    async fn answer(head: &'static str) -> (io::Result<Duration>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut rest = [0; 4];
            let _ = stream.read_exact(&mut rest).await;
            String::from_utf8(request).unwrap()
        });
        let proxy = Proxy::parse(&format!("http://u:p@127.0.0.1:{port}")).unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let result = proxy.connect(&mut stream, "2001:db8::1", 443).await;
        if result.is_ok() {
            assert_eq!(stream.read_u8().await.unwrap(), b'!', "the tunnel's first byte is left");
        }
        drop(stream);
        (result, server.await.unwrap())
    }

    #[tokio::test]
    async fn a_proxy_is_asked_and_its_refusal_is_told() {
        let (result, request) =
            answer("HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n!").await;
        assert!(result.is_ok());
        assert!(request.starts_with("CONNECT [2001:db8::1]:443 HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("Proxy-Authorization: Basic dTpw\r\n"), "{request}");
        let (result, _) = answer("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
        assert!(result.unwrap_err().to_string().contains("407"));
        let (result, _) = answer("HTTP/1.1 403 Forbidden\r\n\r\n").await;
        assert!(result.unwrap_err().to_string().contains("403"));
        let (result, _) = answer("SSH-2.0-OpenSSH\r\n\r\n").await;
        assert!(result.unwrap_err().to_string().contains("HTTP"));
    }

    #[tokio::test]
    async fn an_error_names_the_proxy_and_a_name_cannot_change_the_request() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = closed.local_addr().unwrap().port();
        drop(closed);
        let proxy = Proxy::parse(&format!("http://127.0.0.1:{port}")).unwrap();
        let error = proxy.open("broker.example", 443).await.unwrap_err();
        assert!(error.to_string().contains(&format!("HTTP proxy 127.0.0.1:{port}")), "{error}");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut theirs, _) = listener.accept().await.unwrap();
        for host in ["a b", "a\r\nX: y", ""] {
            let error = proxy.connect(&mut ours, host, 443).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{host:?}");
        }
        drop(ours);
        assert!(theirs.read_u8().await.is_err(), "something was written");
    }
}
