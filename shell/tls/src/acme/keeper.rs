//! Keeps a certificate: takes the kept one up, orders when the schedule says so, keeps what came.

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::certificate::Certificate;
use super::files::SecretFiles;
use super::order::{self, Authority};
use super::resolver::Resolver;
use super::schedule::{Schedule, Step};

/// Does what has to be done for the certificate of one domain.
pub(super) struct Keeper {
    pub(super) domain: String,
    pub(super) authority: Authority,
    pub(super) files: SecretFiles,
    pub(super) resolver: Arc<Resolver>,
    /// The wall clock.
    pub(super) clock: fn() -> SystemTime,
}

impl Keeper {
    /// Never returns.
    pub(super) async fn run(mut self) {
        let mut schedule = Schedule::default();
        match self.kept().await {
            Ok(Some(certificate)) => {
                schedule.handle_kept(&certificate.validity, rand::random());
                self.resolver.show(certificate.key);
                info!("the kept certificate is in use");
            }
            Ok(None) => {}
            Err(error) => {
                warn!(error = format!("{error:#}"), "the kept certificate can't be used");
            }
        }
        loop {
            match schedule.next_step(Instant::now().into_std(), (self.clock)()) {
                Step::Wait(time) => sleep(time).await,
                Step::Order => self.renew(&mut schedule).await,
            }
        }
    }

    async fn kept(&self) -> Result<Option<Certificate>> {
        let pem = self.files.load_certificate().await?;
        pem.map(|pem| Certificate::from_pem(&pem)).transpose()
    }

    async fn renew(&mut self, schedule: &mut Schedule) {
        match self.order().await {
            Ok(certificate) => {
                let now = Instant::now().into_std();
                let validity = certificate.validity;
                schedule.handle_ordered(&validity, rand::random(), now, (self.clock)());
                self.resolver.show(certificate.key);
                info!("a new certificate is in use");
            }
            Err(error) => {
                let wish = self.authority.wish(&error);
                let pause = schedule.handle_failure(wish, Instant::now().into_std());
                warn!(
                    error = format!("{error:#}"),
                    "no certificate from the ACME authority yet; does TCP port 443 of {} lead here? \
                     It is tried again in {} s",
                    self.domain,
                    pause.as_secs()
                );
            }
        }
    }

    async fn order(&mut self) -> Result<Certificate> {
        self.authority.client.take_retry_after();
        let order = self.authority.order(&self.domain, &self.files, &self.resolver);
        let pem = timeout(order::PATIENCE, order).await;
        self.resolver.withdraw_proof();
        let late = |_| anyhow!("the order took longer than {} s", order::PATIENCE.as_secs());
        let pem = pem.map_err(late)??;
        let certificate = Certificate::from_pem(pem.as_bytes())?;
        if let Err(error) = self.files.store_certificate(pem.into_bytes()).await {
            warn!(error = format!("{error:#}"), "can't keep the certificate");
        }
        Ok(certificate)
    }
}
