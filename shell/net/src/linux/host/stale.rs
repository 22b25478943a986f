//! What crashed instances have left in the host's routing.

use std::collections::BTreeSet;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::RouteType;

use super::super::netlink::Netlink;
use super::tables::{Rule, Table, refuses, table_of};
use super::{Error, FAMILIES, Spare, guard, has_alias, ignore_missing};

/// Removes our rules and routes whose table belongs to no living mesh interface; `fresh` was created just
/// now, so that what there is for it is old, too.
pub(super) fn remove(
    netlink: &mut Netlink,
    fresh: Option<u32>,
    spare: Spare,
) -> Result<usize, Error> {
    guard::remove_stale(netlink, fresh, spare);
    let mut removed = 0;
    for family in FAMILIES {
        let Ok(rules) = netlink.rules(family) else { continue };
        let blocking = remove_routes(netlink, family, fresh, spare);
        for rule in rules {
            let Some((own, index)) = Rule::find(&rule) else { continue };
            let is_spared =
                blocking.contains(&(own.table, index)) || spare == Spare::Blocks && refuses(&rule);
            if is_spared || !is_stale(netlink, fresh, index) {
                continue;
            }
            netlink
                .change(RouteNetlinkMessage::DelRule(rule))
                .or_else(ignore_missing)
                .map_err(|error| Error::os("remove a policy rule", error))?;
            removed += 1;
        }
    }
    if removed > 0 {
        tracing::info!(removed, "removed policy rules that a crashed node had left");
    }
    Ok(removed)
}

/// Removes our old routes, whether a rule still leads to their table or not; gives those tables that keep
/// everything from leaving, beside what they pass over.
fn remove_routes(
    netlink: &mut Netlink,
    family: AddressFamily,
    fresh: Option<u32>,
    spare: Spare,
) -> BTreeSet<(Table, u32)> {
    let mut blocking = BTreeSet::new();
    for route in netlink.routes(family).unwrap_or_default() {
        let Some((table, index)) = table_of(&route) else { continue };
        if !is_stale(netlink, fresh, index) {
            continue;
        }
        let kind = route.header.kind;
        if spare == Spare::Blocks && [RouteType::Unreachable, RouteType::Throw].contains(&kind) {
            if kind == RouteType::Unreachable {
                blocking.insert((table, index));
            }
        } else if let Err(error) = netlink.change(RouteNetlinkMessage::DelRoute(route)) {
            tracing::debug!(%error, "an old route stays");
        }
    }
    blocking
}

/// Whether no living mesh interface has that index.
pub(super) fn is_stale(netlink: &mut Netlink, fresh: Option<u32>, index: u32) -> bool {
    let is_mesh = |link| has_alias(&link);
    fresh == Some(index) || !netlink.link(index).ok().flatten().is_some_and(is_mesh)
}
