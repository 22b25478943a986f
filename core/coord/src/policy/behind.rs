//! What rules mean by what stands behind devices.

use ipnet::IpNet;
use warren_proto::{DeviceName, INTERNET, Target};

use super::Selector;
use super::compile::Rule;

/// What a rule leads to at a device.
pub(super) fn targets(
    rule: &Rule,
    itself: bool,
    name: &DeviceName,
    gateway_to: &[IpNet],
) -> Vec<Target> {
    if rule.to_everything {
        return vec![Target::Everything];
    }
    let mut targets = Vec::new();
    if itself {
        targets.push(Target::This);
    }
    for selector in &rule.behind {
        match selector {
            Selector::Virtual { name: of, edge } if edge == name => {
                targets.push(Target::Virtual(of.clone()));
            }
            Selector::Subnet { net, edge: Some(edge) } if edge == name => {
                targets.push(Target::Subnet(*net));
            }
            Selector::Subnet { net, edge: None } if meets_a_lan(gateway_to, net) => {
                targets.push(Target::Subnet(*net));
            }
            Selector::Internet { edge }
                if is_way_out(gateway_to) && edge.as_ref().is_none_or(|edge| edge == name) =>
            {
                targets.push(Target::Internet);
            }
            Selector::Virtual { .. }
            | Selector::Subnet { .. }
            | Selector::Internet { .. }
            | Selector::Subject(_)
            | Selector::Own => {}
        }
    }
    targets.sort();
    targets.dedup();
    targets
}

/// Whether some of the networks that a device is a gateway to is of a network that rules name.
pub(super) fn meets_a_lan(gateway_to: &[IpNet], net: &IpNet) -> bool {
    let mut lans = gateway_to.iter().filter(|own| **own != IpNet::V4(INTERNET));
    lans.any(|own| own.contains(net) || net.contains(own))
}

/// Whether a device is a gateway to the internet.
pub(super) fn is_way_out(gateway_to: &[IpNet]) -> bool {
    gateway_to.contains(&IpNet::V4(INTERNET))
}

/// Whether all of `part` is meant by `whole`.
pub(super) fn includes(whole: &Selector, part: &Selector) -> bool {
    match (whole, part) {
        (Selector::Subnet { net, edge }, Selector::Subnet { net: inner, edge: at }) => {
            net.contains(inner) && (edge.is_none() || edge == at)
        }
        (Selector::Internet { edge: None }, Selector::Internet { .. }) => true,
        _ => whole == part,
    }
}

/// Whether two words for what is behind devices have something in common.
pub(super) fn overlaps(a: &Selector, b: &Selector) -> bool {
    match (a, b) {
        (Selector::Subnet { net, edge }, Selector::Subnet { net: other, edge: at }) => {
            (net.contains(other) || other.contains(net))
                && (edge.is_none() || at.is_none() || edge == at)
        }
        (Selector::Internet { edge }, Selector::Internet { edge: at }) => {
            edge.is_none() || at.is_none() || edge == at
        }
        _ => a == b,
    }
}
