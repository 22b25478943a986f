//! Which card has an address of a LAN now.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use ipnet::{IpNet, Ipv4Net};
use tokio::time::{sleep, timeout};
use warren_net::{ArpSocket, Lan, LanInterface};
use warren_proto::{CardAt, MacAddr};
use warren_scan::Inventory;

use crate::scan::Scanner;

/// A scan's word is good for so long, in seconds: the shortest lease that is usual.
const GOOD_FOR: u64 = 3600;
/// How long after one another it is asked for by ARP.
const ASKS: [Duration; 3] =
    [Duration::ZERO, Duration::from_millis(200), Duration::from_millis(400)];
/// How long its answer is waited for altogether.
const PATIENCE: Duration = Duration::from_secs(1);

/// What scans know of the card at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// It was there just now.
    Seen(MacAddr),
    /// It was there so many seconds ago, or has gone since.
    Once(u64),
    /// Nobody has been seen there whose card is known.
    Nothing,
}

/// The card that something at `ip` is to be bound to: the one that a scan has seen there lately; where the last
/// is old, the one that answers now.
pub(super) async fn card(scanner: &Scanner, ip: Ipv4Addr, mesh: &str) -> CardAt {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (mac, why) = match scanner.known(|inventory| known(inventory, ip, now.as_secs())) {
        Known::Nothing => return CardAt::default(),
        Known::Seen(mac) => (Some(mac), "as the scan saw it".to_owned()),
        Known::Once(ago) => match heard(ip, mesh).await {
            Some(mac) => (Some(mac), "which answers there now".to_owned()),
            None => (
                None,
                format!(
                    "the scan saw a device there {} ago, and none answers now: somebody else may have the \
                     address by the time one does",
                    ago_in_words(ago)
                ),
            ),
        },
    };
    match mac.filter(|mac| scanner.known(|inventory| is_its_own(inventory, ip, *mac))) {
        None if mac.is_some() => CardAt::default(),
        mac => CardAt { mac, why },
    }
}

fn known(inventory: &Inventory, ip: Ipv4Addr, now: u64) -> Known {
    let Some(device) = inventory.by_ip(ip.into()) else { return Known::Nothing };
    let Some(mac) = device.mac else { return Known::Nothing };
    let ago = now.saturating_sub(device.last_seen_unix);
    if device.present && ago <= GOOD_FOR { Known::Seen(mac) } else { Known::Once(ago) }
}

/// Whether a card answers for that address alone, and will have its own address tomorrow, too.
fn is_its_own(inventory: &Inventory, ip: Ipv4Addr, mac: MacAddr) -> bool {
    let mut present = inventory.devices.values().filter(|device| device.present);
    !mac.is_randomised() && !present.any(|device| device.mac == Some(mac) && device.ip != ip)
}

fn ago_in_words(seconds: u64) -> String {
    let (amount, unit) = match seconds {
        0..7200 => (seconds / 60, "minutes"),
        7200..172_800 => (seconds / 3600, "hours"),
        _ => (seconds / 86_400, "days"),
    };
    format!("{amount} {unit}")
}

/// The card that answers at an address, where the host is a neighbour of it.
async fn heard(ip: Ipv4Addr, mesh: &str) -> Option<MacAddr> {
    let interfaces = Lan::open().ok()?.interfaces().ok()?;
    let mut near = interfaces.iter().filter(|interface| interface.name != mesh);
    let (interface, mac, network) =
        near.find_map(|interface| Some((interface, interface.mac?, own(interface, ip)?)))?;
    let socket = ArpSocket::open(interface.index, mac).ok()?;
    let asking = async {
        for pause in ASKS {
            sleep(pause).await;
            // A lost question is like a lost packet.
            let _ = socket.ask(network.addr(), ip);
        }
        std::future::pending::<()>().await;
    };
    let hearing = async {
        loop {
            let heard = socket.hear().await.ok()?;
            if heard.ip == ip {
                return Some(MacAddr(heard.mac));
            }
        }
    };
    let answer = async {
        tokio::select! {
            () = asking => None,
            heard = hearing => heard,
        }
    };
    timeout(PATIENCE, answer).await.ok().flatten()
}

/// The host's own address in the network of another, with that network.
fn own(interface: &LanInterface, ip: Ipv4Addr) -> Option<Ipv4Net> {
    interface.addresses.iter().find_map(|net| match net {
        IpNet::V4(net) if net.contains(&ip) => Some(*net),
        IpNet::V4(_) | IpNet::V6(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 2_000_000_000;

    fn inventory(devices: &[([u8; 4], &str, bool, u64)]) -> Inventory {
        let device = |(ip, mac, present, ago): &([u8; 4], &str, bool, u64)| {
            let ip = std::net::IpAddr::from(*ip);
            let text = format!(
                r#"{{"ip":"{ip}","mac":"{mac}","present":{present},"first_seen_unix":1,"last_seen_unix":{}}}"#,
                NOW - ago
            );
            let device: warren_scan::Device = serde_json::from_str(&text).unwrap();
            (ip, device)
        };
        Inventory { devices: devices.iter().map(device).collect(), ..Inventory::default() }
    }

    #[test]
    fn a_scans_word_on_a_card_is_good_for_an_hour() {
        let own = "3c:52:82:00:00:01";
        let inventory = inventory(&[
            ([192, 168, 1, 9], own, true, 3600),
            ([192, 168, 1, 10], own, true, 3601),
            ([192, 168, 1, 11], own, false, 60),
            ([192, 168, 1, 12], own, true, 0),
        ]);
        let at = |last: u8| known(&inventory, [192, 168, 1, last].into(), NOW);
        assert_eq!(at(9), Known::Seen(own.parse().unwrap()));
        assert_eq!(at(10), Known::Once(3601));
        assert_eq!(at(11), Known::Once(60), "it has gone");
        assert_eq!(at(13), Known::Nothing);
        // A clock that was set back.
        let early = known(&inventory, [192, 168, 1, 12].into(), NOW - 86_400);
        assert_eq!(early, Known::Seen(own.parse().unwrap()));
        assert_eq!(ago_in_words(3601), "60 minutes");
        assert_eq!(ago_in_words(7 * 86_400), "7 days");
    }

    #[test]
    fn a_device_is_bound_to_its_own_card_and_to_no_other() {
        let (own, repeater, made_up) =
            ("3c:52:82:00:00:01", "3c:52:82:00:00:02", "da:a1:19:00:00:01");
        let inventory = inventory(&[
            ([192, 168, 1, 9], own, true, 0),
            // Where it was before.
            ([192, 168, 1, 8], own, false, 0),
            ([192, 168, 1, 20], repeater, true, 0),
            ([192, 168, 1, 21], repeater, true, 0),
            ([192, 168, 1, 30], made_up, true, 0),
        ]);
        let is_own = |last: u8, mac: &str| {
            is_its_own(&inventory, [192, 168, 1, last].into(), mac.parse().unwrap())
        };
        assert!(is_own(9, own) && !is_own(20, repeater) && !is_own(30, made_up));
        assert!(!is_own(40, own), "it is at .9");
    }
}
