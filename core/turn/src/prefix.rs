use std::net::IpAddr;

/// Whom strangers are told apart by: a /24 of IPv4, or a /56 of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Prefix([u8; 8]);

impl Prefix {
    pub(crate) fn of(ip: IpAddr) -> Self {
        let mut prefix = [0; 8];
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                prefix[..3].copy_from_slice(&ip.octets()[..3]);
                // No IPv6 address has this last byte here.
                prefix[7] = 1;
            }
            IpAddr::V6(ip) => prefix[..7].copy_from_slice(&ip.octets()[..7]),
        }
        Self(prefix)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}
