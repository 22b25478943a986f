//! What crashed instances have left in the host's routing.

use std::collections::BTreeSet;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::RouteType;

use super::super::netlink::Netlink;
use super::tables::{Rule, Table, refuses, table_of};
use super::{Error, FAMILIES, Spare, has_alias, ignore_missing};

/// Removes our rules whose table belongs to no living mesh interface, and what stands in those tables;
/// `fresh` was created just now, so that a rule for it is an old one too.
pub(super) fn remove(
    netlink: &mut Netlink,
    fresh: Option<u32>,
    spare: Spare,
) -> Result<usize, Error> {
    let mut removed = 0;
    for family in FAMILIES {
        let Ok(rules) = netlink.rules(family) else { continue };
        let mut stale = Vec::new();
        for rule in rules {
            let Some((own, index)) = Rule::find(&rule) else { continue };
            if fresh == Some(index) || !is_mesh_interface(netlink, index) {
                stale.push(((own.table, index), rule));
            }
        }
        if stale.is_empty() {
            continue;
        }
        let tables = stale.iter().map(|(table, _)| *table).collect();
        let blocking = remove_routes(netlink, family, &tables, spare);
        for (table, rule) in stale {
            if blocking.contains(&table) || spare == Spare::Blocks && refuses(&rule) {
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

/// Removes our routes in tables; gives those tables that still keep everything from leaving.
fn remove_routes(
    netlink: &mut Netlink,
    family: AddressFamily,
    tables: &BTreeSet<(Table, u32)>,
    spare: Spare,
) -> BTreeSet<(Table, u32)> {
    let mut blocking = BTreeSet::new();
    for route in netlink.routes(family).unwrap_or_default() {
        let Some(table) = table_of(&route).filter(|table| tables.contains(table)) else { continue };
        if spare == Spare::Blocks && route.header.kind == RouteType::Unreachable {
            blocking.insert(table);
        } else if let Err(error) = netlink.change(RouteNetlinkMessage::DelRoute(route)) {
            tracing::debug!(%error, "an old route stays");
        }
    }
    blocking
}

fn is_mesh_interface(netlink: &mut Netlink, index: u32) -> bool {
    netlink.link(index).ok().flatten().is_some_and(|link| has_alias(&link))
}
