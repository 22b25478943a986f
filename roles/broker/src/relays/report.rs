//! What relay servers report.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use warren_coord::{By, Refused, RelayFace};
use warren_proto::{ErrorCode, OLDEST_PROTOCOL, RelayReport, RelayReported, RelayTls};

use super::{Relays, Server};
use crate::api::problem::{ApiResult, Failure};

/// A relay that says more often than this that it is reached elsewhere is told to wait: each time
/// costs a commit, and a delta to everybody.
const MOVE_INTERVAL: Duration = Duration::from_secs(2);

impl Relays {
    /// Takes a relay server's report, which came from `source`.
    pub(crate) async fn report(
        self: &Arc<Self>,
        server: Server,
        mut report: RelayReport,
        source: IpAddr,
    ) -> ApiResult<RelayReported> {
        if report.protocol < OLDEST_PROTOCOL {
            return Err(Refused::UpgradeRequired.into());
        }
        self.check_scope(server, &report)?;
        report.software.truncate(report.software.floor_char_boundary(64));
        let face = face_of(&report, source).clean();
        let (id, now) = (server.id(), Instant::now());
        if self.current_face(server)? != face {
            let last = self.lock().moved.insert(id, now);
            if last.is_some_and(|last| now.duration_since(last) < MOVE_INTERVAL) {
                return Err(Refused::RateLimited.into());
            }
            self.change_face(server, face.clone()).await?;
        }
        let is_first = match server {
            Server::Of(account, _) => {
                let Some(account) = self.accounts.get(account) else { return Err(void()) };
                let was_heard = account.read(|account| account.is_relay_heard(id));
                account.soft(|account, now| account.handle_relay_report(id, report, now));
                !was_heard
            }
            Server::Operators(_) => {
                let (was_draining, is_draining, is_first) = {
                    let mut state = self.lock();
                    let live = state.live.entry(id).or_default();
                    let was = live.is_draining();
                    let is_first = live.report.is_none();
                    live.report = Some((now, report));
                    (was, live.is_draining(), is_first)
                };
                if was_draining != is_draining {
                    self.publish();
                }
                is_first
            }
        };
        if is_first {
            // The first answer is to say already whether anybody can reach it.
            self.probe_server(server, &face).await;
        }
        let init = self.init(server).ok_or_else(void)?;
        let problem = self.unreached(server, &face);
        Ok(RelayReported { id, name: init.name, problem })
    }

    /// A token for one account doesn't do for a relay that is meant for another.
    fn check_scope(&self, server: Server, report: &RelayReport) -> ApiResult<()> {
        let Some(expected) = &report.account else { return Ok(()) };
        let actual = match server {
            Server::Of(account, _) => self.accounts.get(account).map(|it| it.record().name),
            Server::Operators(_) => None,
        };
        let scope = match &actual {
            Some(actual) if actual == expected => return Ok(()),
            Some(_) => "another account".to_owned(),
            None => "all accounts".to_owned(),
        };
        Err(Failure::new(
            ErrorCode::WrongScope,
            format!(
                "this token is for {scope}, and the relay is meant for account '{expected}'; make \
                 a token for it: warren admin relays create NAME --account {expected}"
            ),
        ))
    }

    fn current_face(&self, server: Server) -> ApiResult<RelayFace> {
        match server {
            Server::Of(account, id) => self
                .accounts
                .get(account)
                .and_then(|account| {
                    let records = account.read(warren_coord::Account::relay_records);
                    records.into_iter().find(|record| record.id == id)
                })
                .map(|record| record.face)
                .ok_or_else(void),
            Server::Operators(id) => {
                self.lock().pool.get(id).map(|record| record.face.clone()).ok_or_else(void)
            }
        }
    }

    async fn change_face(self: &Arc<Self>, server: Server, face: RelayFace) -> ApiResult<()> {
        match server {
            Server::Of(account, id) => {
                let account = self.accounts.get(account).ok_or_else(void)?;
                let change = move |account: &warren_coord::Account, _: &_| {
                    account.prepare_relay_face(id, &face)
                };
                account.durable(By::BROKER, change).await
            }
            Server::Operators(id) => self.set_face(id, face).await,
        }
    }

    fn unreached(&self, server: Server, face: &RelayFace) -> Option<String> {
        let id = server.id();
        let probes = match server {
            Server::Of(account, _) => {
                self.accounts.get(account)?.read(|account| account.relay_probes(id).to_vec())
            }
            Server::Operators(_) => self.lock().live.get(&id)?.probes.clone(),
        };
        let failed =
            |addr: &&SocketAddr| probes.iter().any(|probe| probe.addr == **addr && !probe.answered);
        let addr = *face.udp.iter().find(failed)?;
        Some(warren_coord::RelayWarning::Unreachable { addr }.to_string())
    }
}

fn void() -> Failure {
    Failure::new(ErrorCode::Revoked, "this relay was removed")
}

/// Unspecified addresses stand for where the report came from.
fn face_of(report: &RelayReport, source: IpAddr) -> RelayFace {
    let addresses = |given: &[SocketAddr]| {
        let known = |addr: &SocketAddr| match addr.ip().is_unspecified() {
            true if addr.is_ipv4() == source.is_ipv4() => {
                Some(SocketAddr::new(source, addr.port()))
            }
            true => None,
            false => Some(*addr),
        };
        given.iter().filter_map(known).collect()
    };
    let host = |tls: &RelayTls| RelayTls {
        host: if tls.host.is_empty() { source.to_string() } else { tls.host.clone() },
        ..tls.clone()
    };
    RelayFace {
        udp: addresses(&report.udp),
        tcp: addresses(&report.tcp),
        tls: report.tls.iter().map(host).collect(),
    }
}
