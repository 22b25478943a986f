//! Requests to the provider: one connection for each, TLS (plain only to this machine itself), no
//! redirects, bounded in size and time.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use warren_control::Tls;

/// How long an exchange may take, all in all.
const PATIENCE: Duration = Duration::from_secs(10);
const LONGEST: usize = 512 * 1024;

/// A URL that may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    https: bool,
    /// Without brackets.
    pub(super) host: String,
    port: u16,
    authority: String,
    path: String,
}

impl Url {
    /// # Errors
    /// It is none, or would carry secrets in the clear.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let uri: Uri = text.parse().context("is no URL")?;
        let host = uri.host().context("has no host")?.trim_matches(['[', ']']).to_owned();
        let is_here =
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if is_here => false,
            Some(_) | None => bail!("must begin with https://"),
        };
        let authority = uri.authority().context("has no host")?.as_str().to_owned();
        ensure!(!authority.contains('@'), "has a user's name in it");
        Ok(Self {
            https,
            host,
            port: uri.port_u16().unwrap_or(if https { 443 } else { 80 }),
            authority,
            path: uri.path_and_query().map_or("/", |it| it.as_str()).to_owned(),
        })
    }
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    body: Bytes,
}

impl Answer {
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).context("the answer isn't the JSON that it should be")
    }
}

/// Asks the provider.
pub(super) struct Fetch(Arc<ClientConfig>);

impl Fetch {
    /// Believes the system's authorities, and those of a PEM file.
    ///
    /// # Errors
    /// The file can't be read, or TLS can't be set up.
    pub(super) fn new(authority: Option<&Path>) -> Result<Self> {
        let extra = authority.map(read_authorities).transpose()?.unwrap_or_default();
        let tls = Tls::with_authorities(extra, b"http/1.1");
        Ok(Self(tls.context("can't set TLS up for single sign-on")?.config()))
    }

    pub(super) async fn get(&self, url: &str, bearer: Option<&str>) -> Result<Answer> {
        let credentials = bearer.map(|token| format!("Bearer {token}"));
        self.exchange(Method::GET, url, credentials, None).await
    }

    /// Sends a form, and client id and secret in the header that is made for them (RFC 6749
    /// §2.3.1), where they are given.
    pub(super) async fn post(
        &self,
        url: &str,
        client: Option<(&str, &str)>,
        fields: &[(&str, &str)],
    ) -> Result<Answer> {
        let credentials = client.map(basic).transpose()?;
        let form = serde_urlencoded::to_string(fields)?;
        self.exchange(Method::POST, url, credentials, Some(form)).await
    }

    async fn exchange(
        &self,
        method: Method,
        url: &str,
        credentials: Option<String>,
        form: Option<String>,
    ) -> Result<Answer> {
        let to = Url::parse(url).with_context(|| url.to_owned())?;
        let mut request = Request::builder()
            .method(method)
            .uri(&to.path)
            .header(HOST, &to.authority)
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("warren/", env!("CARGO_PKG_VERSION")));
        if let Some(credentials) = credentials {
            let mut value = HeaderValue::try_from(credentials)?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        if form.is_some() {
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        let request = request.body(Full::new(Bytes::from(form.unwrap_or_default())))?;
        let answer = timeout(PATIENCE, self.send(&to, request)).await;
        let answer = answer.map_err(|_| anyhow!("no answer within {} s", PATIENCE.as_secs()));
        let answer =
            answer.flatten().with_context(|| format!("{} at {}", to.path, to.authority))?;
        ensure!(!answer.status.is_redirection(), "{url} leads elsewhere, which isn't followed");
        Ok(answer)
    }

    async fn send(&self, to: &Url, request: Request<Full<Bytes>>) -> Result<Answer> {
        let stream = TcpStream::connect((to.host.as_str(), to.port)).await;
        let stream = stream.context("it can't be reached")?;
        if !to.https {
            return answer(stream, request).await;
        }
        let name = ServerName::try_from(to.host.clone()).context("its host's name is none")?;
        let stream = TlsConnector::from(self.0.clone()).connect(name, stream).await;
        let stream = stream.context(
            "TLS failed (an authority of your own that its certificate comes from is given by \
             --oidc-ca FILE)",
        )?;
        answer(stream, request).await
    }
}

/// `application/x-www-form-urlencoded` first, then base64: a colon in either stays apart.
fn basic((id, secret): (&str, &str)) -> Result<String> {
    let encode = |text: &str| -> Result<String> {
        let pair = serde_urlencoded::to_string([("", text)])?;
        Ok(pair.trim_start_matches('=').to_owned())
    };
    Ok(format!("Basic {}", STANDARD.encode(format!("{}:{}", encode(id)?, encode(secret)?))))
}

fn read_authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let shown = path.display();
    let all: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(|certificates| certificates.collect());
    let all = all.with_context(|| format!("can't read the provider's authority {shown}"))?;
    ensure!(!all.is_empty(), "there is no certificate in {shown}");
    Ok(all)
}

async fn answer(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Answer> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let exchanged = async {
        let response = sender.send_request(request).await.context("it did not answer")?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, LONGEST).collect().await;
        let body = body.map_err(|error| anyhow!("its answer broke off or is too long: {error}"))?;
        Ok(Answer { status: parts.status, body: body.to_bytes() })
    };
    let answer = exchanged.await;
    connection.abort();
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_over_tls_or_stay_on_this_machine() {
        let url = Url::parse("https://id.example.org/realms/home?x=1").unwrap();
        assert_eq!((url.port, url.path.as_str()), (443, "/realms/home?x=1"));
        assert_eq!(Url::parse("http://127.0.0.1:4000").unwrap().port, 4000);
        assert!(Url::parse("http://[::1]:4000").is_ok());
        for wrong in ["http://id.example.org", "ftp://127.0.0.1", "x", "https://u:p@x.org/", "/x"] {
            assert!(Url::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_colon_in_a_secret_does_not_end_the_id() {
        let header = basic(("a:b", "c d%")).unwrap();
        let plain = STANDARD.decode(header.trim_start_matches("Basic ")).unwrap();
        assert_eq!(String::from_utf8(plain).unwrap(), "a%3Ab:c+d%25");
    }
}
