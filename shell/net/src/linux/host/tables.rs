//! The tables of a mesh interface, the routes in them, and the rules that lead there.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "rtnetlink's enums have dozens of kinds of which few matter, and grow"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{
    RuleAction, RuleAttribute, RuleFlags, RuleMessage, RulePortRange,
};

use crate::config::{HostConfig, InterfaceConfig};

/// Marks rules and routes as ours: a number that no registered routing daemon uses.
pub(in super::super) const PROTOCOL: RouteProtocol = RouteProtocol::Other(119);
/// Between the numbers of two tables of one interface; its index is less.
const APART: u32 = 0x1000_0000;
/// How far the exit's rules come behind the mesh's.
const EXIT_BEHIND: u32 = 3;
/// Behind every other route, of which the lowest number counts.
const LAST: u32 = 1 << 31;

/// A table of one interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Table {
    /// What the mesh reaches.
    Mesh,
    /// Where names are asked beside an exit node.
    Names,
    /// All else, with an exit node.
    Exit,
}

impl Table {
    const ALL: [Self; 3] = [Self::Mesh, Self::Names, Self::Exit];

    /// Its number with the interface of index 0.
    fn first(self) -> u32 {
        match self {
            Self::Mesh => 0x7700_0000,
            Self::Names => 0x8700_0000,
            Self::Exit => 0x9700_0000,
        }
    }

    /// How far behind the first its rules come.
    fn behind(self) -> u32 {
        match self {
            Self::Mesh => 0,
            Self::Names => 2,
            Self::Exit => EXIT_BEHIND,
        }
    }

    fn number(self, index: u32) -> u32 {
        self.first().wrapping_add(index)
    }

    /// The table with that number, and its interface's index.
    fn find(number: u32) -> Option<(Self, u32)> {
        let index = |table: Self| number.checked_sub(table.first()).filter(|index| *index < APART);
        Self::ALL.into_iter().find_map(|table| Some((table, index(table)?)))
    }
}

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// Into the mesh, from the interface's own address.
    Mesh,
    /// Past this table: the next rule decides.
    Further,
    /// The packet is refused, unless another route of the table is for it.
    Nowhere,
}

/// A route in one of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Route {
    pub(super) table: Table,
    pub(super) network: IpNet,
    pub(super) way: Way,
}

impl Route {
    pub(super) fn is_ipv6(&self) -> bool {
        matches!(self.network, IpNet::V6(_))
    }

    /// As the kernel takes it when it is added for that interface.
    pub(super) fn new_message(&self, index: u32, own: &InterfaceConfig) -> RouteMessage {
        let mut route = self.message(index);
        if self.way == Way::Mesh {
            let source = if self.is_ipv6() { IpAddr::from(own.ipv6) } else { own.ipv4.into() };
            route.attributes.push(RouteAttribute::PrefSource(source.into()));
        }
        route
    }

    /// As the kernel finds it again, whatever its source, for the interface of that index.
    pub(super) fn message(&self, index: u32) -> RouteMessage {
        let table = self.table.number(index);
        let length = self.network.prefix_len();
        let mut route = match self.network.addr() {
            IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(ip, length)
                .protocol(PROTOCOL)
                .table_id(table)
                .build(),
            IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(ip, length)
                .protocol(PROTOCOL)
                .table_id(table)
                .build(),
        };
        match self.way {
            Way::Mesh => {
                if !self.is_ipv6() {
                    route.header.scope = RouteScope::Link;
                }
                route.attributes.push(RouteAttribute::Oif(index));
            }
            Way::Further => route.header.kind = RouteType::Throw,
            Way::Nowhere => {
                route.header.kind = RouteType::Unreachable;
                route.attributes.push(RouteAttribute::Priority(LAST));
            }
        }
        route
    }
}

/// What a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum What {
    /// Everything without the daemons' mark.
    Unmarked,
    /// Everything for that port.
    Port(u16),
    /// Everything with the daemons' mark: it is led past the rules for ports, which can't tell it.
    Marked,
}

/// A rule that leads to one of the tables, or past it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct Rule {
    pub(super) table: Table,
    pub(super) what: What,
}

impl Rule {
    /// As the kernel takes it, for the interface of that index.
    pub(super) fn message(
        &self,
        family: AddressFamily,
        index: u32,
        config: &HostConfig,
    ) -> RuleMessage {
        let mut rule = RuleMessage::default();
        rule.header.family = family;
        rule.header.action = RuleAction::ToTable;
        let mut priority = config.rule_priority.saturating_add(self.table.behind());
        let mark = [RuleAttribute::FwMark(config.mark), RuleAttribute::FwMask(config.mark_mask)];
        match self.what {
            What::Unmarked => {
                rule.header.flags = RuleFlags::Invert;
                rule.attributes.extend(mark);
            }
            // The inversion would be that of the port, too.
            What::Port(port) => {
                // A route that leads nowhere is passed over for a link's own addresses, a rule isn't.
                if family == AddressFamily::Inet6 {
                    rule.header.action = RuleAction::Unreachable;
                }
                let range = RulePortRange { start: port, end: port };
                rule.attributes.push(RuleAttribute::DestinationPortRange(range));
            }
            What::Marked => {
                priority -= 1;
                rule.header.action = RuleAction::Goto;
                let past = config.rule_priority.saturating_add(EXIT_BEHIND);
                rule.attributes.push(RuleAttribute::Goto(past));
                rule.attributes.extend(mark);
            }
        }
        rule.attributes.extend([
            RuleAttribute::Priority(priority),
            RuleAttribute::Table(self.table.number(index)),
            RuleAttribute::Protocol(PROTOCOL),
        ]);
        rule
    }

    /// Whether it is there for an exit node alone.
    pub(in super::super) fn is_exits(&self) -> bool {
        self.table != Table::Mesh
    }

    /// One of ours, and the index of its interface; `None` for others' rules.
    pub(in super::super) fn find(rule: &RuleMessage) -> Option<(Self, u32)> {
        if !rule.attributes.contains(&RuleAttribute::Protocol(PROTOCOL)) {
            return None;
        }
        let number = rule.attributes.iter().find_map(|attribute| match attribute {
            RuleAttribute::Table(number) => Some(*number),
            _ => None,
        });
        let port = rule.attributes.iter().find_map(|attribute| match attribute {
            RuleAttribute::DestinationPortRange(range) => Some(range.start),
            _ => None,
        });
        let what = match port {
            Some(port) => What::Port(port),
            None if rule.header.action == RuleAction::Goto => What::Marked,
            None => What::Unmarked,
        };
        let (table, index) = Table::find(number?)?;
        Some((Self { table, what }, index))
    }
}

/// Whether it refuses packets itself, or leads the daemons' own past such rules.
pub(super) fn refuses(rule: &RuleMessage) -> bool {
    matches!(rule.header.action, RuleAction::Unreachable | RuleAction::Goto)
}

/// The table in which one of our routes stands, and the index of its interface; `None` for others' routes.
pub(super) fn table_of(route: &RouteMessage) -> Option<(Table, u32)> {
    if route.header.protocol != PROTOCOL {
        return None;
    }
    let number = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(number) => Some(*number),
        _ => None,
    });
    Table::find(number?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_known_by_its_number() {
        for table in Table::ALL {
            for index in [0, 1, 77, APART - 1] {
                assert_eq!(Table::find(table.number(index)), Some((table, index)));
            }
        }
        for other in [0, 253, 254, 255, 0x76ff_ffff, 0xa700_0000] {
            assert_eq!(Table::find(other), None, "{other:#x}");
        }
    }

    #[test]
    fn a_rule_is_known_by_what_the_kernel_holds() {
        for table in Table::ALL {
            for what in [What::Unmarked, What::Port(53), What::Marked] {
                let rule = Rule { table, what };
                let message = rule.message(AddressFamily::Inet, 7, &HostConfig::default());
                assert_eq!(Rule::find(&message), Some((rule, 7)));
            }
        }
        assert_eq!(Rule::find(&RuleMessage::default()), None);
    }
}
