//! systemd-resolved over D-Bus (org.freedesktop.resolve1(5)).

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use zbus::Connection;
use zbus::names::BusName;
use zbus::proxy;

use super::{NameConfig, NameError};

/// The bus answers at once or is stuck.
const PATIENCE: Duration = Duration::from_secs(5);
const BUS_NAME: &str = "org.freedesktop.resolve1";
/// Where it writes the servers of all links.
pub(super) const UPLINKS: &str = "/run/systemd/resolve/resolv.conf";
/// Families in `SetLinkDNSEx` are numbered as in sockets.
const AF_INET: i32 = libc::AF_INET;
const AF_INET6: i32 = libc::AF_INET6;

#[proxy(
    interface = "org.freedesktop.resolve1.Manager",
    default_service = "org.freedesktop.resolve1",
    default_path = "/org/freedesktop/resolve1"
)]
trait Manager {
    #[zbus(name = "SetLinkDNSEx")]
    fn set_link_dns_ex(
        &self,
        interface: i32,
        servers: &[(i32, Vec<u8>, u16, &str)],
    ) -> zbus::Result<()>;

    fn set_link_domains(&self, interface: i32, domains: &[(&str, bool)]) -> zbus::Result<()>;

    fn set_link_default_route(&self, interface: i32, enable: bool) -> zbus::Result<()>;

    #[zbus(name = "SetLinkDNSOverTLS")]
    fn set_link_dns_over_tls(&self, interface: i32, mode: &str) -> zbus::Result<()>;

    #[zbus(name = "SetLinkDNSSEC")]
    fn set_link_dnssec(&self, interface: i32, mode: &str) -> zbus::Result<()>;

    #[zbus(name = "SetLinkLLMNR")]
    fn set_link_llmnr(&self, interface: i32, mode: &str) -> zbus::Result<()>;

    #[zbus(name = "SetLinkMulticastDNS")]
    fn set_link_multicast_dns(&self, interface: i32, mode: &str) -> zbus::Result<()>;

    fn revert_link(&self, interface: i32) -> zbus::Result<()>;

    fn flush_caches(&self) -> zbus::Result<()>;
}

/// A running systemd-resolved that the host's programs ask.
#[derive(Debug)]
pub(super) struct Resolved {
    connection: Connection,
    /// The unique bus name of the process that was told; another one knows nothing.
    told: std::sync::Mutex<Option<String>>,
}

impl Resolved {
    /// `None` where it doesn't run, or nobody asks it.
    pub(super) async fn find(config: &NameConfig) -> Option<Self> {
        if !is_asked(&config.resolv_conf, Path::new("/etc/nsswitch.conf")) {
            return None;
        }
        let connection = bounded(Connection::system()).await.ok()?;
        let resolved = Self { connection, told: std::sync::Mutex::new(None) };
        resolved.owner().await?;
        Some(resolved)
    }

    pub(super) async fn apply(&self, config: &NameConfig) -> Result<(), NameError> {
        let owner = self.owner().await;
        let manager = self.manager().await?;
        let link = config.interface as i32;
        let (family, address) = match config.server.ip() {
            IpAddr::V4(ip) => (AF_INET, ip.octets().to_vec()),
            IpAddr::V6(ip) => (AF_INET6, ip.octets().to_vec()),
        };
        let servers = [(family, address, config.server.port(), "")];
        // The account's domain is searched for bare names; the other zones only lead here.
        let mut domains = vec![(config.domain.as_str(), false)];
        domains.extend(config.zones.iter().map(|zone| (zone.as_str(), true)));
        // The root as a zone: no other link's servers are asked for what isn't their own domain.
        domains.extend(config.all.then_some((".", true)));
        bounded(async {
            manager.set_link_dns_ex(link, &servers).await?;
            manager.set_link_domains(link, &domains).await?;
            manager.set_link_default_route(link, config.all).await?;
            manager.set_link_dns_over_tls(link, "no").await?;
            // The mesh's zones aren't signed, and its link knows no multicast.
            manager.set_link_dnssec(link, "no").await?;
            manager.set_link_llmnr(link, "no").await?;
            manager.set_link_multicast_dns(link, "no").await?;
            manager.flush_caches().await
        })
        .await?;
        if let Ok(mut told) = self.told.lock() {
            *told = owner;
        }
        Ok(())
    }

    /// Tells it again when it is another process than the one that was told.
    pub(super) async fn refresh(&self, config: &NameConfig) -> Result<bool, NameError> {
        let owner = self.owner().await;
        let known = self.told.lock().map(|told| *told == owner).unwrap_or(false);
        if known || owner.is_none() {
            return Ok(false);
        }
        self.apply(config).await.map(|()| true)
    }

    pub(super) async fn revert(&self, interface: u32) -> Result<(), NameError> {
        let manager = self.manager().await?;
        bounded(async {
            manager.revert_link(interface as i32).await?;
            manager.flush_caches().await
        })
        .await
    }

    async fn manager(&self) -> Result<ManagerProxy<'_>, NameError> {
        bounded(ManagerProxy::new(&self.connection)).await
    }

    async fn owner(&self) -> Option<String> {
        let bus = bounded(zbus::fdo::DBusProxy::new(&self.connection)).await.ok()?;
        let name = BusName::try_from(BUS_NAME).ok()?;
        let owner = tokio::time::timeout(PATIENCE, bus.get_name_owner(name)).await.ok()?;
        owner.ok().map(|owner| owner.to_string())
    }
}

async fn bounded<T>(call: impl Future<Output = zbus::Result<T>>) -> Result<T, NameError> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(result) => result.map_err(|error| NameError::Resolved(error.to_string())),
        Err(_) => Err(NameError::Resolved("no answer within 5 seconds".to_owned())),
    }
}

/// Whether programs reach it: by its stub address in resolv.conf or by its nsswitch module.
fn is_asked(resolv_conf: &Path, nsswitch: &Path) -> bool {
    let stubs: [IpAddr; 2] = [[127, 0, 0, 53].into(), [127, 0, 0, 54].into()];
    let text = std::fs::read_to_string(resolv_conf).unwrap_or_default();
    let stub = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|server| server.trim().parse::<IpAddr>().ok())
        .any(|server| stubs.contains(&server));
    stub || std::fs::read_to_string(nsswitch)
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.trim().strip_prefix("hosts:"))
        .any(|sources| sources.split_ascii_whitespace().any(|source| source == "resolve"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_where_programs_ask_it() {
        let dir = tempfile::tempdir().unwrap();
        let (resolv, nsswitch) = (dir.path().join("resolv.conf"), dir.path().join("nsswitch.conf"));
        assert!(!is_asked(&resolv, &nsswitch));
        std::fs::write(&resolv, "nameserver 192.168.1.1\n").unwrap();
        std::fs::write(&nsswitch, "hosts: files dns\n").unwrap();
        assert!(!is_asked(&resolv, &nsswitch));
        std::fs::write(&nsswitch, "hosts:  files resolve [!UNAVAIL=return] dns\n").unwrap();
        assert!(is_asked(&resolv, &nsswitch));
        std::fs::write(&nsswitch, "").unwrap();
        std::fs::write(&resolv, "# stub\nnameserver 127.0.0.53\noptions edns0\n").unwrap();
        assert!(is_asked(&resolv, &nsswitch));
    }
}
