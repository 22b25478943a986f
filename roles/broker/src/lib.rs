//! The broker: HTTPS API, control sessions, STUN, admin socket.
//!
//! [`serve`] is all of `warren serve`. What it decides is decided in `warren-coord`; here are the
//! sockets, the certificates, the files and the order of things. `docs/protocol.md` has the routes.

mod accounts;
mod addresses;
pub mod admin;
mod api;
mod backup;
mod broker;
mod config;
mod data_dir;
mod embedded;
mod export;
mod first_start;
#[cfg(test)]
mod fixture;
mod join_requests;
mod mail;
mod members;
mod oidc;
mod outbox;
mod people;
mod portal;
mod problems;
mod prune;
mod reach;
mod relays;
mod server;
mod stun;
mod tenants;
mod tls;
mod webhooks;

use std::io::Write as _;

use anyhow::Result;

pub use backup::{Manifest, RESTORED_SECRETS, restore};
pub use broker::{Running, start};
pub use config::{
    FALLBACK_HTTPS_PORT, HTTPS_PORT, Limits, STUN_PORT, ServeConfig, SetLogFilter, TlsMode,
};
pub use embedded::{RelayConnection, RelayPlan, RelayRuntime, RunningRelay, Starting};
pub use first_start::FirstStart;
pub use mail::{MailSecurity, SmtpConfig};
pub use oidc::OidcConfig;

pub use warren_coord::DeviceLimit;
pub use warren_tls::AcmeConfig;

/// Runs a broker until `shutdown`, and tells the person at the terminal how to join.
///
/// # Errors
/// What is in the way (a port, the data folder, another broker) and what to do about it.
pub async fn serve(config: ServeConfig, shutdown: impl Future<Output = ()>) -> Result<()> {
    let running = start(&config).await?;
    // A broker whose greeting nobody reads (`| head -1`) serves all the same.
    let _ = std::io::stdout().write_all(greeting(&running).as_bytes());
    running.run(shutdown).await
}

fn greeting(running: &Running) -> String {
    let mut text = format!("Broker at {} (listening on {})\n", running.url(), running.listen());
    if running.url_is_guessed() {
        text.push_str(
            "  The URL is a guess; if devices reach this host otherwise: --public-url URL\n",
        );
    }
    if let [first, ..] = running.stun_public().as_slice() {
        text.push_str(&format!("STUN at {first}\n"));
    }
    if let Some(redirect) = running.sso_redirect() {
        text.push_str(&format!("Single sign-on; redirect URI for the provider: {redirect}\n"));
    }
    for problem in running.problems() {
        text.push_str(&format!("\nProblem: {problem}.\n"));
    }
    let (first, data) = (running.first(), running.data());
    if let Some(link) = &first.set_up_link {
        text.push_str(&format!(
            "\nThe portal is new. Whoever opens this within a day becomes its operator:\n\n  {link}\n"
        ));
    } else if first.has_no_operator {
        text.push_str(&format!(
            "The portal has no operator yet. A link for the first one: \
             warren admin --data {} users create E-MAIL --operator\n",
            data.display()
        ));
    }
    if let Some(link) = &first.join_link {
        text.push_str(&format!(
            "\nA link for your first device, good for one device within a day:\n\n  \
             warren up --join '{link}'\n\n"
        ));
    }
    // A link is a secret: where nobody reads along at a terminal, a log would keep it.
    let more = match first.is_unused && first.join_link.is_none() {
        true => "No device has joined yet. A link for the first one:",
        false => "More links:",
    };
    text.push_str(&format!("{more} warren admin --data {} join-keys create\n", data.display()));
    text
}
