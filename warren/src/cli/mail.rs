//! `warren serve`: how it sends mail; `warren admin mail`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use warren_broker::MailSecurity;
use warren_broker::admin::Email;

/// How mail is kept from being read on its way to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SmtpTls {
    /// STARTTLS, which must succeed: port 587
    Starttls,
    /// From the start: port 465
    Tls,
    /// None, for a server on this machine: port 25
    Off,
}

impl From<SmtpTls> for MailSecurity {
    fn from(tls: SmtpTls) -> Self {
        match tls {
            SmtpTls::Starttls => Self::StartTls,
            SmtpTls::Tls => Self::Tls,
            SmtpTls::Off => Self::Off,
        }
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Mail")]
pub(crate) struct Smtp {
    /// Mail server by which invitations and links for forgotten passwords are sent [default: none are]
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) smtp_server: Option<String>,
    /// How the mail server is spoken to
    #[arg(long, value_name = "MODE", default_value = "starttls")]
    pub(crate) smtp_tls: SmtpTls,
    /// Who the broker is there [default: it isn't asked]
    #[arg(long, value_name = "NAME")]
    pub(crate) smtp_user: Option<String>,
    /// The password there
    #[arg(
        long,
        value_name = "PASSWORD",
        env = "WARREN_SMTP_PASSWORD",
        hide_env_values = true,
        conflicts_with = "smtp_password_file"
    )]
    pub(crate) smtp_password: Option<String>,
    /// File with the password there
    #[arg(long, value_name = "FILE")]
    pub(crate) smtp_password_file: Option<PathBuf>,
    /// From whom mails come: warren@example.org, or 'Warren <warren@example.org>'
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) smtp_from: Option<String>,
    /// PEM file of an authority that the mail server's own certificate comes from
    #[arg(long, value_name = "FILE")]
    pub(crate) smtp_ca: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Mail {
    /// Send a mail, and say what the mail server says
    Test {
        /// To whom
        address: Email,
    },
}
