//! What the host calls itself: for the public URL, the certificate and the STUN servers' names.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use warren_turn::is_public;

use crate::config::PublicUrl;

/// The host's unicast addresses on interfaces that are up, without link-local IPv6 ones; IPv4
/// before IPv6, each in order.
pub(crate) fn own_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    let addresses: BTreeSet<IpAddr> = interfaces
        .filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP))
        .filter_map(|interface| {
            let address = interface.address?;
            match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
                (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
                (None, Some(v6)) => Some(IpAddr::V6(v6.ip())),
                (None, None) => None,
            }
        })
        .filter(|ip| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()))
        .collect();
    addresses.into_iter().collect()
}

/// The host's name, as `uname` has it.
pub(crate) fn host_name() -> Option<String> {
    let name = nix::unistd::gethostname().ok()?.into_string().ok()?;
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    (!name.is_empty() && name != "localhost" && name != "(none)").then_some(name)
}

/// All names that the certificate is for: the public URL's host first. A broker with a public name
/// doesn't tell strangers how its own network looks inside.
pub(crate) fn own_names(public_host: &str) -> Vec<String> {
    let is_public_host = match public_host.parse::<IpAddr>() {
        Ok(ip) => is_public(&ip),
        Err(_) => public_host.contains('.'),
    };
    let mut names = vec![public_host.to_owned(), "localhost".to_owned()];
    names.extend(host_name().filter(|_| !is_public_host));
    let shown = |ip: &IpAddr| !is_public_host || is_public(ip) || ip.is_loopback();
    names.extend(own_addresses().into_iter().filter(shown).map(|ip| ip.to_string()));
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// The URL by which devices probably reach this host: a public address, else one of the LAN,
/// else the host's name.
pub(crate) fn guess_public_url(listen: SocketAddr, https: bool) -> PublicUrl {
    let bound = listen.ip().to_canonical();
    let host = if bound.is_unspecified() {
        guess_host(&own_addresses(), listen.is_ipv6(), host_name())
    } else {
        bound.to_string()
    };
    PublicUrl { https, host, port: listen.port() }
}

fn guess_host(addresses: &[IpAddr], ipv6: bool, name: Option<String>) -> String {
    let usable = |ip: &&IpAddr| !ip.is_loopback() && (ip.is_ipv4() || ipv6);
    let public = addresses.iter().filter(usable).find(|ip| is_public(ip));
    let private = || addresses.iter().find(|ip| usable(ip));
    match public.or_else(private) {
        Some(ip) => ip.to_string(),
        None => name.unwrap_or_else(|| "localhost".to_owned()),
    }
}

/// What netmaps name as STUN servers, out of what is bound: only addresses that a device
/// elsewhere can reach. A private one would show it nothing.
pub(crate) fn public_stun(bound: &[SocketAddr], own: &[IpAddr]) -> Vec<SocketAddr> {
    let mut named = Vec::new();
    for addr in bound {
        let ip = addr.ip().to_canonical();
        let reached = |own: &&IpAddr| is_public(own) && (own.is_ipv4() == ip.is_ipv4());
        if ip.is_unspecified() {
            named.extend(own.iter().filter(reached).map(|ip| SocketAddr::new(*ip, addr.port())));
        } else if is_public(&ip) {
            named.push(SocketAddr::new(ip, addr.port()));
        }
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_public_address_is_guessed_before_a_private_one_before_a_name() {
        let name = || Some("box".to_owned());
        let all = ips(&["10.0.0.2", "127.0.0.1", "203.0.113.7", "2001:db8::1"]);
        assert_eq!(guess_host(&all, true, name()), "203.0.113.7");
        assert_eq!(guess_host(&ips(&["10.0.0.2", "2001:db8::1"]), true, name()), "2001:db8::1");
        assert_eq!(guess_host(&ips(&["10.0.0.2", "2001:db8::1"]), false, name()), "10.0.0.2");
        assert_eq!(guess_host(&ips(&["127.0.0.1", "::1"]), true, name()), "box");
        assert_eq!(guess_host(&[], true, None), "localhost");
    }

    #[test]
    fn only_public_stun_addresses_are_named() {
        let bound: Vec<SocketAddr> =
            ["0.0.0.0:3478", "[::]:3478", "198.51.100.2:3479", "10.0.0.2:3478"]
                .map(|text| text.parse().unwrap())
                .to_vec();
        let own = ips(&["127.0.0.1", "10.0.0.2", "203.0.113.7", "fd00::1", "2001:db8::1"]);
        let named: Vec<String> =
            public_stun(&bound, &own).into_iter().map(|addr| addr.to_string()).collect();
        assert_eq!(named, ["203.0.113.7:3478", "[2001:db8::1]:3478", "198.51.100.2:3479"]);
        assert!(public_stun(&bound[..2], &ips(&["192.168.1.2", "::1"])).is_empty());
    }
}
