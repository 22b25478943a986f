//! The mail server, and how it is spoken to.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};

use super::Refusal;
use super::letter::Letter;
use crate::config::PublicUrl;

/// How long one command may take, and a mail as a whole.
const COMMAND: Duration = Duration::from_secs(15);
const WHOLE: Duration = Duration::from_secs(45);

/// How mail is kept from being read on its way to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailSecurity {
    /// TLS after STARTTLS (RFC 3207), which must succeed. Port 587.
    StartTls,
    /// TLS from the start (RFC 8314). Port 465.
    Tls,
    /// None: for a server on this machine alone. Port 25.
    Off,
}

impl MailSecurity {
    fn port(self) -> u16 {
        match self {
            Self::StartTls => 587,
            Self::Tls => 465,
            Self::Off => 25,
        }
    }
}

/// How mail is sent.
#[derive(Clone)]
pub struct SmtpConfig {
    /// The server: a host, or host and port.
    pub server: String,
    /// How it is spoken to.
    pub security: MailSecurity,
    /// User and password there. `None`: it asks for none.
    pub credentials: Option<(String, String)>,
    /// From whom: `warren@example.org`, or `Warren <warren@example.org>`.
    pub from: String,
    /// PEM file of an authority that the server's certificate comes from, besides the public ones.
    pub authority: Option<PathBuf>,
}

impl std::fmt::Debug for SmtpConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SmtpConfig({} from {})", self.server, self.from)
    }
}

impl SmtpConfig {
    /// Refuses what can't work or would be unsafe.
    ///
    /// # Errors
    /// What is wrong; never the password.
    pub(crate) fn check(&self) -> Result<()> {
        self.sender()?;
        let (host, _) = self.place()?;
        let is_here =
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        ensure!(
            is_here || self.security != MailSecurity::Off,
            "--smtp-tls off would send links that sign people in, and a password, in the clear: it \
             is for a server on this machine (--smtp-server localhost)"
        );
        if let Some((user, password)) = &self.credentials {
            ensure!(
                !user.is_empty() && !password.is_empty(),
                "the mail server's user or password is empty"
            );
        }
        Ok(())
    }

    fn sender(&self) -> Result<Mailbox> {
        let example = "give --smtp-from as warren@example.org or 'Warren <warren@example.org>'";
        ensure!(!self.from.chars().any(char::is_control), "{example}");
        self.from.parse().context(example)
    }

    fn place(&self) -> Result<(String, u16)> {
        let example = "give --smtp-server as mail.example.org or mail.example.org:587";
        if let Ok(addr) = self.server.parse::<SocketAddr>() {
            return Ok((addr.ip().to_string(), addr.port()));
        }
        if let Ok(ip) = self.server.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Ok((ip.to_string(), self.security.port()));
        }
        let (host, port) = match self.server.split_once(':') {
            Some((host, port)) => (host, port.parse().context(example)?),
            None => (self.server.as_str(), self.security.port()),
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
        if host.is_empty() || !host.chars().all(is_plain) {
            bail!("'{}' is no mail server's name; {example}", self.server);
        }
        Ok((host.to_owned(), port))
    }

    /// The server as mail is given to it, by a broker with this URL.
    pub(super) fn server(&self, url: &PublicUrl) -> Result<Server> {
        let (host, port) = self.place()?;
        let parameters = || -> Result<TlsParameters> {
            let mut parameters = TlsParameters::builder(host.clone());
            if let Some(path) = &self.authority {
                parameters = parameters.add_root_certificate(authority(path)?);
            }
            parameters.build_rustls().context("can't set TLS up for mail")
        };
        let tls = match self.security {
            MailSecurity::Tls => Tls::Wrapper(parameters()?),
            MailSecurity::StartTls => Tls::Required(parameters()?),
            MailSecurity::Off => Tls::None,
        };
        let name = match url.host.parse() {
            Ok(IpAddr::V4(ip)) => ClientId::Ipv4(ip),
            Ok(IpAddr::V6(ip)) => ClientId::Ipv6(ip),
            Err(_) => ClientId::Domain(url.host.clone()),
        };
        let mut builder = Transport::builder_dangerous(&host)
            .port(port)
            .tls(tls)
            .hello_name(name)
            .timeout(Some(COMMAND));
        if let Some((user, password)) = &self.credentials {
            builder = builder.credentials(Credentials::new(user.clone(), password.clone()));
        }
        Ok(Server { transport: builder.build(), from: self.sender()?, broker: url.to_string() })
    }
}

fn authority(path: &Path) -> Result<Certificate> {
    let shown = path.display();
    let pem = std::fs::read(path).with_context(|| format!("can't read {shown}"))?;
    Certificate::from_pem(&pem).with_context(|| format!("there is no certificate in {shown}"))
}

type Transport = AsyncSmtpTransport<Tokio1Executor>;

/// The mail server.
pub(super) struct Server {
    transport: Transport,
    from: Mailbox,
    broker: String,
}

impl Server {
    /// How the broker is called in mails: its URL.
    pub(super) fn name(&self) -> &str {
        &self.broker
    }

    /// Hands a letter over.
    pub(super) async fn send(&self, letter: &Letter) -> Result<(), Refusal> {
        let message = letter.message(&self.from);
        let message = message.map_err(|error| Refusal::new(&format!("{error:#}"), true))?;
        match tokio::time::timeout(WHOLE, self.transport.send(message)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                let is_final = error.is_permanent();
                Err(Refusal::new(&format!("{:#}", anyhow::Error::new(error)), is_final))
            }
            Err(_) => Err(Refusal::new("the mail server is too slow", false)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(server: &str, security: MailSecurity) -> SmtpConfig {
        SmtpConfig {
            server: server.to_owned(),
            security,
            credentials: None,
            from: "Warren <warren@example.org>".to_owned(),
            authority: None,
        }
    }

    #[test]
    fn a_server_is_a_host_with_the_usual_port_or_another() {
        use MailSecurity::{Off, StartTls, Tls};
        for (text, security, host, port) in [
            ("mail.example.org", StartTls, "mail.example.org", 587),
            ("mail.example.org", Tls, "mail.example.org", 465),
            ("mail.example.org:2525", StartTls, "mail.example.org", 2525),
            ("[2001:db8::1]:25", Tls, "2001:db8::1", 25),
            ("localhost", Off, "localhost", 25),
        ] {
            assert_eq!(config(text, security).place().unwrap(), (host.to_owned(), port));
            config(text, security).check().unwrap();
        }
        for wrong in ["", "smtp://x", "a b", "x:y", "user@host", "x\r\ny"] {
            assert!(config(wrong, StartTls).check().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn nothing_goes_in_the_clear_over_a_network() {
        let why = config("mail.example.org", MailSecurity::Off).check().unwrap_err().to_string();
        assert!(why.contains("--smtp-tls off"), "{why}");
        config("127.0.0.1:2525", MailSecurity::Off).check().unwrap();
    }

    #[test]
    fn the_sender_is_an_address_and_nothing_more() {
        for wrong in ["warren", "warren@example.org\r\nBcc: eve@example.org", ""] {
            let from = wrong.to_owned();
            assert!(SmtpConfig { from, ..config("localhost", MailSecurity::Off) }.check().is_err());
        }
    }
}
