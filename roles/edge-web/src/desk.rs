use std::fmt;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;

use warren_proto::{
    DeviceId, DeviceName, EdgeChange, EdgeChanged, EdgeDuty, EdgeSpec, ForwardSpec, GatewaySpec,
    Peer, VirtualDeviceSpec,
};

/// Where the edge stands in the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub name: DeviceName,
    /// The account's domain, without a trailing dot.
    pub domain: String,
    /// Its mesh address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 mesh address.
    pub ipv6: Ipv6Addr,
    /// What is to be open, and which devices' people may change it.
    pub duty: EdgeDuty,
    /// The devices that this one sees.
    pub peers: Vec<Peer>,
    /// Whether the broker is connected.
    pub is_connected: bool,
}

/// The device at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) device: DeviceId,
    pub(crate) name: DeviceName,
    /// Whether its user may change what the edge opens.
    pub(crate) manages: bool,
}

impl Place {
    /// The device that has that address of its own; what stands behind one is nobody.
    pub(crate) fn asker(&self, source: IpAddr) -> Option<Asker> {
        let has = |peer: &&Peer| match source.to_canonical() {
            IpAddr::V4(ip) => peer.ipv4 == ip,
            IpAddr::V6(ip) => peer.ipv6 == ip,
        };
        let peer = self.peers.iter().find(has)?;
        let manages = self.duty.managers.contains(&peer.id);
        Some(Asker { device: peer.id, name: peer.name.clone(), manages })
    }

    /// Its whole name in DNS.
    pub(crate) fn dns_name(&self) -> String {
        format!("{}.{}", self.name, self.domain)
    }

    /// Whether a browser that goes to `host` means this edge: any other name may lead here by the will
    /// of a stranger's DNS (rebinding).
    pub(crate) fn is_called(&self, host: &str, port: u16) -> bool {
        let host = host.strip_suffix(&format!(":{port}")).unwrap_or(host);
        let name = host.strip_suffix('.').unwrap_or(host);
        name.eq_ignore_ascii_case(self.name.as_str())
            || name.eq_ignore_ascii_case(&self.dns_name())
            || host.parse() == Ok(self.ipv4)
            || host.strip_prefix('[').and_then(|it| it.strip_suffix(']')).map(str::parse)
                == Some(Ok(self.ipv6))
    }

    /// What is open, as far as the edge knows without the broker: what is set and not open it doesn't.
    pub(crate) fn open(&self) -> EdgeSpec {
        let duty = &self.duty;
        let forwards = duty.forwards.iter().map(|it| ForwardSpec {
            id: it.id,
            name: it.name.clone(),
            enabled: true,
            protocol: it.protocol,
            port: it.port,
            last_port: it.last_port,
            target: it.target,
            target_port: it.target_port,
            source: it.source,
            untested: it.untested,
            allow: Vec::new(),
            schedule: it.schedule.clone(),
            note: String::new(),
        });
        let devices = duty.virtual_devices.iter().map(|it| VirtualDeviceSpec {
            id: it.id,
            name: it.name.clone(),
            ipv4: it.ipv4,
            enabled: true,
            target: it.target,
            ports: it.ports.clone(),
            source: it.source,
            untested: it.untested,
            note: String::new(),
        });
        let gateways = duty.gateways.iter().map(|it| GatewaySpec {
            id: it.id,
            lan: it.lan,
            mesh: it.mesh,
            enabled: true,
            source: it.source,
            standby_for: None,
            note: String::new(),
        });
        EdgeSpec {
            forwards: forwards.collect(),
            virtual_devices: devices.collect(),
            gateways: gateways.collect(),
        }
    }
}

/// Why something isn't done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The broker is out of reach, and it takes the broker.
    BrokerAway,
    /// Who asks may not.
    Forbidden,
    /// It isn't there.
    NotFound,
    /// It makes no sense, or clashes with something.
    Invalid,
    /// Something like it is under way.
    Busy,
    /// This device can't do it.
    Failed,
}

/// Something isn't done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub why: Why,
    /// The reason, for people, and what to do.
    pub text: String,
}

impl Refusal {
    pub(crate) fn new(why: Why, text: impl fmt::Display) -> Self {
        Self { why, text: format!("{text}") }
    }

    pub(crate) fn invalid(text: impl fmt::Display) -> Self {
        Self::new(Why::Invalid, text)
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(Why::NotFound, format!("there is no such {what} (any more)"))
    }
}

/// An answer that is on its way.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send + 'a>>;

/// Where the account's word on this edge is had and changed: the broker, by the node.
pub trait Desk: Send + Sync {
    /// All that is set.
    fn spec(&self) -> Answer<'_, EdgeSpec>;

    /// Changes something of it, as asked from that device.
    fn change(&self, change: EdgeChange, from: DeviceId) -> Answer<'_, EdgeChanged>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            name: DeviceName::from_free_text("site-7"),
            domain: "home.warren.internal".to_owned(),
            ipv4: Ipv4Addr::new(100, 80, 1, 1),
            ipv6: "fd00::1".parse().unwrap(),
            duty: EdgeDuty::default(),
            peers: Vec::new(),
            is_connected: true,
        }
    }

    #[test]
    fn an_edge_is_called_by_its_names_and_addresses_alone() {
        let place = place();
        for host in [
            "site-7",
            "SITE-7.home.warren.internal",
            "site-7.home.warren.internal.",
            "site-7:80",
            "100.80.1.1",
            "100.80.1.1:80",
            "[fd00::1]",
            "[fd00::1]:80",
        ] {
            assert!(place.is_called(host, 80), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "site-7.evil.example",
            "camera.site-7.home.warren.internal",
            "localhost",
            "100.80.1.2",
            "site-7:8080",
            "fd00::1",
            "[fd00::2]",
        ] {
            assert!(!place.is_called(host, 80), "{host}");
        }
        assert_eq!(place.asker("100.80.1.9".parse().unwrap()), None);
    }
}
