//! Requests to the authority: one connection for each, no redirects, bounded in size. What bounds them
//! in time is a layer of its own, around whatever makes them.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Uri};
use http_body_util::{BodyExt as _, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// What a request comes to.
pub(super) type Exchange = Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>>;

const LONGEST: usize = 1024 * 1024;
/// A host may have addresses that nothing comes back from, such as one of IPv6 without a way there.
const PATIENCE_WITH_AN_ADDRESS: Duration = Duration::from_secs(7);

/// Speaks HTTP/1.1 over TLS; in the clear only to this machine itself.
pub(super) struct Https(Arc<ClientConfig>);

impl Https {
    pub(super) fn new(mut tls: ClientConfig) -> Self {
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self(Arc::new(tls))
    }
}

impl HttpClient for Https {
    fn request(&self, request: Request<BodyWrapper<Bytes>>) -> Exchange {
        let tls = self.0.clone();
        Box::pin(
            async move { exchange(tls, request).await.map_err(|error| Error::Other(error.into())) },
        )
    }
}

struct Target {
    https: bool,
    host: String,
    port: u16,
    authority: HeaderValue,
    path: Uri,
}

impl Target {
    fn of(uri: &Uri) -> Result<Self> {
        let host = uri.host().context("its URL has no host")?.trim_matches(['[', ']']).to_owned();
        let is_here =
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if is_here => false,
            Some(_) | None => bail!("its URL must begin with https://"),
        };
        let authority = uri.authority().context("its URL has no host")?.as_str();
        ensure!(!authority.contains('@'), "its URL has a user's name in it");
        Ok(Self {
            https,
            port: uri.port_u16().unwrap_or(if https { 443 } else { 80 }),
            authority: HeaderValue::from_str(authority)?,
            path: uri.path_and_query().map_or("/", |path| path.as_str()).parse()?,
            host,
        })
    }
}

async fn exchange(
    tls: Arc<ClientConfig>,
    mut request: Request<BodyWrapper<Bytes>>,
) -> Result<BytesResponse> {
    let to = Target::of(request.uri())?;
    *request.uri_mut() = to.path;
    request.headers_mut().insert(HOST, to.authority);
    let stream = connect(&to.host, to.port).await?;
    if !to.https {
        return send(stream, request).await;
    }
    let name = ServerName::try_from(to.host).context("its host's name is none")?;
    let stream = TlsConnector::from(tls).connect(name, stream).await.context("TLS failed")?;
    send(stream, request).await
}

async fn connect(host: &str, port: u16) -> Result<TcpStream> {
    let mut failure = anyhow!("its name has no address");
    for address in lookup_host((host, port)).await.context("its name isn't found")? {
        match timeout(PATIENCE_WITH_AN_ADDRESS, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failure = anyhow!(error).context("it can't be reached"),
            Err(_) => failure = anyhow!("it can't be reached: no answer"),
        }
    }
    Err(failure)
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin,
    request: Request<BodyWrapper<Bytes>>,
) -> Result<BytesResponse> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, LONGEST).collect().await;
        let body = body.map_err(|error| anyhow!("its answer broke off or is too long: {error}"))?;
        Ok(BytesResponse { parts, body: Box::new(body.to_bytes()) })
    };
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        // The answer, or why there is none, may still be on its way through the body's channel.
        _ = connection => exchange.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_is_asked_over_tls_or_on_this_machine() {
        let of = |url: &str| Target::of(&url.parse().unwrap());
        let target = of("https://ca.example.test/dir?x=1").unwrap();
        assert_eq!((target.port, target.path.to_string().as_str()), (443, "/dir?x=1"));
        assert_eq!(of("https://[2001:db8::1]:14000/dir").unwrap().host, "2001:db8::1");
        assert!(of("http://[::1]:4000/dir").is_ok());
        for wrong in ["http://ca.example.test/", "ftp://127.0.0.1/", "https://u:p@x.test/", "/x"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
