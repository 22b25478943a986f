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
        let known = self.current_face(server)?;
        let face = face_of(&report, source, &known).clean();
        let (id, now) = (server.id(), Instant::now());
        if known != face {
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

/// Unspecified addresses stand for where the report came from. That speaks for one family alone: of the
/// other, what was known of the same port stays.
fn face_of(report: &RelayReport, source: IpAddr, known: &RelayFace) -> RelayFace {
    let is_source = |ip: IpAddr| ip.is_ipv4() == source.is_ipv4();
    let addresses = |given: &[SocketAddr], known: &[SocketAddr]| -> Vec<SocketAddr> {
        let find = |addr: &SocketAddr| match addr.ip().is_unspecified() {
            true if is_source(addr.ip()) => Some(SocketAddr::new(source, addr.port())),
            true => {
                let is_same =
                    |it: &&SocketAddr| it.port() == addr.port() && it.is_ipv4() == addr.is_ipv4();
                known.iter().find(is_same).copied()
            }
            false => Some(*addr),
        };
        given.iter().filter_map(find).collect()
    };
    let host = |tls: &RelayTls| {
        let is_elsewhere = |it: &&RelayTls| {
            it.port == tls.port && it.host.parse().is_ok_and(|ip: IpAddr| !is_source(ip))
        };
        let kept = || known.tls.iter().find(is_elsewhere).map(|it| it.host.clone());
        match tls.host.is_empty() {
            true => kept().unwrap_or_else(|| source.to_string()),
            false => tls.host.clone(),
        }
    };
    RelayFace {
        udp: addresses(&report.udp, &known.udp),
        tcp: addresses(&report.tcp, &known.tcp),
        tls: report.tls.iter().map(|tls| RelayTls { host: host(tls), ..tls.clone() }).collect(),
    }
}

#[cfg(test)]
mod tests {
    use warren_proto::{PROTOCOL, RelayLimits, RelayLoad};

    use super::*;

    fn report(udp: &[&str], host: &str) -> RelayReport {
        let udp: Vec<SocketAddr> = udp.iter().map(|addr| addr.parse().unwrap()).collect();
        let tls = RelayTls { host: host.to_owned(), port: 443, server_name: None, pin: None };
        RelayReport {
            protocol: PROTOCOL,
            account: None,
            tcp: udp.clone(),
            udp,
            tls: vec![tls],
            limits: RelayLimits::default(),
            load: RelayLoad::default(),
            software: String::new(),
            draining: false,
        }
    }

    fn told(report: &RelayReport, source: &str, known: &RelayFace) -> (RelayFace, String, String) {
        let face = face_of(report, source.parse().unwrap(), known);
        assert_eq!(face.udp, face.tcp);
        let udp: Vec<String> = face.udp.iter().map(ToString::to_string).collect();
        let host = face.tls[0].host.clone();
        (face, udp.join(" "), host)
    }

    #[test]
    fn a_report_speaks_for_the_family_that_it_came_by_and_leaves_the_other() {
        let both = report(&["0.0.0.0:3478", "[::]:3478"], "");
        let (v4, v6) = ("198.51.100.7", "2606:4700::7");
        let nothing = RelayFace::default();
        let (first, udp, host) = told(&both, v4, &nothing);
        assert_eq!((&*udp, &*host), ("198.51.100.7:3478", v4));
        // It connects by the other family: no device loses its allocation for that.
        let (second, udp, host) = told(&both, v6, &first);
        assert_eq!((&*udp, &*host), ("198.51.100.7:3478 [2606:4700::7]:3478", v4));
        assert_eq!(told(&both, v4, &second).0, second);
        assert_eq!(told(&both, v6, &second).0, second);
        // A new address of its family is news, and another port is another place.
        let (_, udp, host) = told(&both, "198.51.100.8", &second);
        assert_eq!((&*udp, &*host), ("198.51.100.8:3478 [2606:4700::7]:3478", "198.51.100.8"));
        let moved = report(&["0.0.0.0:3479", "[::]:3479"], "relay.example.org");
        let (_, udp, host) = told(&moved, v4, &second);
        assert_eq!((&*udp, &*host), ("198.51.100.7:3479", "relay.example.org"));
    }

    #[test]
    fn what_a_report_names_holds_wherever_it_came_from() {
        let named = report(&["198.51.100.9:3478", "[2606:4700::9]:3478"], "198.51.100.9");
        let (_, udp, host) = told(&named, "203.0.113.1", &RelayFace::default());
        assert_eq!((&*udp, &*host), ("198.51.100.9:3478 [2606:4700::9]:3478", "198.51.100.9"));
    }
}
