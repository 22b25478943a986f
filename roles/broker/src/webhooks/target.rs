//! Where messages may go: out into the internet, and not to what only the broker can reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::Uri;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use warren_turn::is_public;

/// Ranges that are none of anybody's on the internet, besides the private ones (RFC 6890).
const RESERVED4: [Ipv4Net; 6] = [
    net4([192, 0, 0, 0], 24),
    net4([192, 0, 2, 0], 24),
    net4([198, 18, 0, 0], 15),
    net4([198, 51, 100, 0], 24),
    net4([203, 0, 113, 0], 24),
    net4([240, 0, 0, 0], 4),
];

/// IPv6 that carries an IPv4 address, which may be a private one (NAT64, 6to4, Teredo), and what is
/// reserved: whoever is there has an address of his own, too.
const RESERVED6: [Ipv6Net; 6] = [
    net6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96),
    net6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48),
    net6([0x100, 0, 0, 0, 0, 0, 0, 0], 64),
    net6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32),
    net6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16),
    net6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
];

const fn net4([a, b, c, d]: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn net6(groups: [u16; 8], prefix: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = groups;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

/// What the operator allows besides the internet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Targets(pub(crate) Vec<IpNet>);

/// A URL's parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) https: bool,
    /// Without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// As in the header `Host`.
    pub(super) authority: String,
    pub(super) path: String,
}

impl Url {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.split('#').next()?.parse().ok()?;
        let https = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let host = uri.host()?.trim_matches(['[', ']']).to_owned();
        let path = uri.path_and_query().map_or("/", |it| it.as_str());
        Some(Self {
            https,
            host,
            port: uri.port_u16().unwrap_or(if https { 443 } else { 80 }),
            authority: uri.authority()?.as_str().to_owned(),
            path: path.to_owned(),
        })
    }
}

impl Targets {
    /// The first of a host's addresses that messages may go to.
    ///
    /// # Errors
    /// There is none; the text says what to do.
    pub(super) fn choose(&self, url: &Url, found: &[SocketAddr]) -> Result<SocketAddr, String> {
        if let Some(addr) = found.iter().find(|addr| self.permits(url.https, addr.ip())) {
            return Ok(*addr);
        }
        let Some(addr) = found.first() else {
            return Err(format!("{} has no address", url.host));
        };
        let ip = addr.ip().to_canonical();
        Err(match is_on_the_internet(ip) {
            true => "messages go over HTTPS: give a URL that begins with https://".to_owned(),
            false => format!(
                "{} is {ip}, which is no address of the internet; the broker's operator can allow \
                 it: warren serve --allow-webhook {ip}",
                url.host
            ),
        })
    }

    /// Without TLS only to where the operator allows it.
    fn permits(&self, https: bool, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let is_allowed = self.0.iter().any(|net| net.contains(&ip));
        is_allowed || https && is_on_the_internet(ip)
    }
}

fn is_on_the_internet(ip: IpAddr) -> bool {
    let is_reserved = match ip {
        IpAddr::V4(ip) => RESERVED4.iter().any(|net| net.contains(&ip)),
        IpAddr::V6(ip) => {
            // The global unicast range (RFC 4291), less what stands for something else.
            ip.segments()[0] & 0xe000 != 0x2000 || RESERVED6.iter().any(|net| net.contains(&ip))
        }
    };
    is_public(&ip) && !is_reserved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_the_broker_reaches_gets_no_message() {
        let targets = Targets::default();
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "240.0.0.1",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "fe80::1",
            "fc00::1",
            "ff02::1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:0:1::1",
        ] {
            let ip: IpAddr = private.parse().unwrap();
            assert!(!targets.permits(true, ip), "{private}");
            let allowed = Targets(vec![IpNet::from(ip.to_canonical())]);
            assert!(allowed.permits(true, ip) && allowed.permits(false, ip), "{private}");
        }
        for public in ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"] {
            let ip: IpAddr = public.parse().unwrap();
            assert!(targets.permits(true, ip) && !targets.permits(false, ip), "{public}");
        }
    }

    #[test]
    fn the_first_address_that_may_be_is_the_one() {
        let url = Url::parse("https://hook.example.org:8443/in?x=1#y").unwrap();
        assert_eq!(
            (url.host.as_str(), url.port, url.path.as_str()),
            ("hook.example.org", 8443, "/in?x=1")
        );
        let [inside, outside] =
            ["10.0.0.1:8443", "93.184.215.14:8443"].map(|it| it.parse().unwrap());
        assert_eq!(Targets::default().choose(&url, &[inside, outside]), Ok(outside));
        let refused = Targets::default().choose(&url, &[inside]).unwrap_err();
        assert!(refused.contains("10.0.0.1") && refused.contains("--allow-webhook"), "{refused}");
        let plain = Url::parse("http://hook.example.org/").unwrap();
        assert!(Targets::default().choose(&plain, &[outside]).unwrap_err().contains("https://"));
        for wrong in ["ftp://x/", "https:///x", "x"] {
            assert_eq!(Url::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Url::parse("https://[2001:db8::1]/").unwrap().host, "2001:db8::1");
    }
}
