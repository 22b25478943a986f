//! The NAT matrix: what is expected, what was measured, and the page that shows both.

use std::fmt::Write as _;
use std::time::Duration;

use warren_mesh::{PathState, PeerStatus};

use crate::net::{Behaviour, Link, NatConfig};
use crate::relay::RelayKind;
use crate::site::{Families, Nat, SiteConfig, SiteId};
use crate::world::World;

/// One row of `testing/expectations/nat-matrix.tsv`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    /// One side.
    pub left: Nat,
    /// The other side.
    pub right: Nat,
    /// Whether the two connect directly.
    pub direct: bool,
    /// Why, in words.
    pub why: String,
}

/// Reads the table.
///
/// # Panics
/// When it is malformed: it is part of this repository.
pub fn expectations(table: &str) -> Vec<Expectation> {
    let rows = table.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    rows.skip(1)
        .map(|line| {
            let mut cells = line.split('\t');
            let mut cell = || cells.next().expect("a row has four cells");
            let nat = |text: &str| text.parse().expect("a NAT of the table");
            Expectation {
                left: nat(cell()),
                right: nat(cell()),
                direct: match cell() {
                    "yes" => true,
                    "no" => false,
                    other => panic!("'{other}' is neither yes nor no"),
                },
                why: cell().to_owned(),
            }
        })
        .collect()
}

/// What one attempt brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Time from the first ping to the first reply, if both ends have a direct path then.
    pub direct: Option<Duration>,
    /// The same, if both ends have a path through one relay.
    pub relayed: Option<Duration>,
    /// Allocations made at relays until then.
    pub allocations: u64,
    /// What the side that began says of why it isn't direct.
    pub reason: Option<String>,
    /// A digest of everything that happened.
    pub trace: u64,
}

/// Lets one device behind `from` ping another behind `to`, once, over such legs.
pub fn attempt(seed: u64, from: Nat, to: Nat, leg: Link) -> Attempt {
    attempt_between(World::with_leg(seed, leg), |world| {
        [from, to].map(|nat| world.add_site(SiteConfig { leg, ..SiteConfig::new(nat) }))
    })
}

/// The same where the broker has one address: the devices then can't tell endpoint-independent from
/// address-dependent mapping.
pub fn attempt_with_one_stun_address(seed: u64, from: Nat, to: Nat) -> Attempt {
    attempt_between(World::with_stun(seed, Link::ACCESS, 1), |world| {
        [from, to].map(|nat| world.add_site(SiteConfig::new(nat)))
    })
}

/// A pair that the table leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// IPv6 alone, a stateful firewall on each side.
    Ipv6Firewalls,
    /// Dual stack on both sides, whose IPv4 NATs map per destination.
    DualStackApdm,
    /// IPv4 alone on one side, both families on the other.
    Ipv4AndDual,
    /// Two devices behind one NAT that does not hairpin.
    OneHome,
    /// Two homes behind one carrier's NAT that hairpins.
    OneCarrier,
    /// Two homes behind one carrier's NAT that does not.
    OneCarrierWithoutHairpin,
}

impl Beside {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Ipv6Firewalls,
        Self::DualStackApdm,
        Self::Ipv4AndDual,
        Self::OneHome,
        Self::OneCarrier,
        Self::OneCarrierWithoutHairpin,
    ];

    /// What it is, in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipv6Firewalls => "IPv6 behind a stateful firewall on both sides",
            Self::DualStackApdm => "dual stack, both IPv4 NATs apdm, IPv6 behind firewalls",
            Self::Ipv4AndDual => "IPv4 alone and dual stack, both eim-apdf",
            Self::OneHome => "two devices in one home, no hairpinning",
            Self::OneCarrier => "two homes behind one carrier's NAT, which hairpins",
            Self::OneCarrierWithoutHairpin => "two homes behind one carrier's NAT, no hairpinning",
        }
    }

    /// Whether the two connect directly.
    pub fn is_direct(self) -> bool {
        self != Self::OneCarrierWithoutHairpin
    }

    fn sites(self, world: &mut World) -> [SiteId; 2] {
        let home = SiteConfig::new(Nat::EimApdf);
        let with = |families, nat| SiteConfig { families, ..SiteConfig::new(nat) };
        let configs = match self {
            Self::Ipv6Firewalls => [with(Families::V6, Nat::EimApdf); 2],
            Self::DualStackApdm => [with(Families::Dual, Nat::Apdm); 2],
            Self::Ipv4AndDual => [home, with(Families::Dual, Nat::EimApdf)],
            Self::OneHome => return [world.add_site(home); 2],
            Self::OneCarrier | Self::OneCarrierWithoutHairpin => {
                let nat = NatConfig {
                    hairpin: self == Self::OneCarrier,
                    ..NatConfig::new(
                        Behaviour::EndpointIndependent,
                        Behaviour::AddressAndPortDependent,
                    )
                };
                let carrier = world.sites.add_carrier(&mut world.network, nat, Link::LAN);
                [SiteConfig { carrier: Some(carrier), ..home }; 2]
            }
        };
        configs.map(|config| world.add_site(config))
    }

    /// One attempt.
    pub fn attempt(self, seed: u64) -> Attempt {
        attempt_between(World::new(seed), |world| self.sites(world))
    }
}

/// One ping between two sites, both devices online for a while, which one started first and for how
/// long by the seed.
fn attempt_between(mut world: World, sites: impl FnOnce(&mut World) -> [SiteId; 2]) -> Attempt {
    for name in ["first", "second"] {
        world.add_relay(name, RelayKind::Ours, Link::ACCESS);
    }
    let sites = sites(&mut world);
    let nodes = ["left", "right"].into_iter().zip(sites).map(|(name, site)| {
        let node = world.add_node(name, site);
        let wait = Duration::from_millis(world.chance(3000));
        world.run_for(wait);
        world.start_node(node);
        node
    });
    let nodes: Vec<_> = nodes.collect();
    let (left, right) = (nodes[0], nodes[1]);
    let warm_up = Duration::from_millis(9000 + world.chance(60_000));
    world.run_for(warm_up);
    let time = world.ping_until_answered(left, right, Duration::from_secs(20));
    let status = |world: &World, node, peer| {
        let device = world.node(peer).device();
        world.node(node).mesh().peer(device).expect("it is in the netmap")
    };
    let is_direct = |world: &World, node, peer| {
        matches!(status(world, node, peer).path, PathState::Direct { .. })
    };
    let both = is_direct(&world, left, right) && is_direct(&world, right, left);
    let relay = |world: &World, node, peer| match status(world, node, peer) {
        PeerStatus { path: PathState::Relayed { .. }, relay: Some(relay), .. } => Some(relay.id),
        _ => None,
    };
    let here = relay(&world, left, right);
    let same = here.is_some() && here == relay(&world, right, left);
    let allocations = world.allocated();
    // The search for a direct path goes on beside the relayed one, and tells why it was in vain.
    world.run_for(Duration::from_secs(7));
    Attempt {
        direct: time.filter(|_| both),
        relayed: time.filter(|_| same),
        allocations,
        reason: status(&world, left, right).reason.map(|reason| reason.to_string()),
        trace: world.network.trace(),
    }
}

/// The measured times of one pair of the table, both directions together.
#[derive(Debug, Clone)]
pub struct Measured {
    /// The row.
    pub expected: Expectation,
    /// The times, sorted: direct, or through a relay where the row says so.
    pub times: Vec<Duration>,
    /// What the devices say where there is none.
    pub reason: Option<String>,
}

/// The value below which `share` of the sorted values lie.
pub fn percentile(sorted: &[Duration], share: f64) -> Option<Duration> {
    let last = sorted.len().checked_sub(1)?;
    let index = (share * last as f64).round();
    sorted.get(index as usize).copied()
}

/// Up to the next 10 ms, so that the page changes only when something has.
fn rounded_ms(time: Duration) -> u128 {
    time.as_micros().div_ceil(10_000) * 10
}

fn cell(sorted: &[Duration], direct: bool) -> String {
    let ms = |share| percentile(sorted, share).map(rounded_ms);
    match (ms(0.5), ms(0.95)) {
        (Some(p50), Some(p95)) if direct => format!("{p50} / {p95}"),
        (Some(p50), Some(p95)) => format!("*{p50} / {p95}*"),
        (Some(_), None) | (None, Some(_)) | (None, None) => "–".to_owned(),
    }
}

/// The legs of the second measurement: 1 % loss, up to 10 ms jitter, some packets late or twice.
pub const BAD_LEG: Link = Link {
    jitter: Duration::from_millis(10),
    loss: 0.01,
    duplicate: 0.005,
    reorder: 0.01,
    ..Link::ACCESS
};

/// The sorted times of all pairs together.
#[derive(Debug, Clone, Copy)]
pub struct Times<'a> {
    /// Direct ones.
    pub direct: &'a [Duration],
    /// Direct ones over bad legs.
    pub bad: &'a [Duration],
    /// Relayed ones.
    pub relayed: &'a [Duration],
}

/// The page, in Markdown.
pub fn page(
    rows: &[Measured],
    besides: &[(Beside, Vec<Duration>)],
    seeds: usize,
    times: Times<'_>,
) -> String {
    let mut page = format!(
        "# NAT matrix\n\n\
        Generated by `testing/sim` (real broker and node cores, virtual NATs, virtual time); a test \
        fails when this page is stale. Write it anew:\n\n\
        ```\ncargo xtask docs\n```\n\n\
        Each pair is held to `testing/expectations/nat-matrix.tsv`, as is `testing/lab` with kernel \
        NATs. The time is from the first ping to its reply over a tunnel that did not exist before, \
        with 20 ms one way on each leg (device, broker and STUN server, each to the middle of the \
        internet), without loss: median / 95th percentile in ms of virtual time (up to the next 10), over {seeds} seeds, \
        each with either side beginning. *In italics* what goes through a relay, 20 ms from the middle \
        too; the others make no allocation at any.\n\n"
    );
    page.push_str("|  |");
    for nat in Nat::ALL {
        let _ = write!(page, " {nat} |");
    }
    page.push_str("\n| --- |");
    page.push_str(&" --- |".repeat(Nat::ALL.len()));
    page.push('\n');
    for left in Nat::ALL {
        let _ = write!(page, "| **{left}** |");
        for right in Nat::ALL {
            let row = rows.iter().find(|row| {
                let pair = (row.expected.left, row.expected.right);
                pair == (left, right) || pair == (right, left)
            });
            let cell = row.map_or_else(String::new, |row| cell(&row.times, row.expected.direct));
            let _ = write!(page, " {cell} |");
        }
        page.push('\n');
    }
    let summary = |sorted: &[Duration]| {
        let ms = |share| percentile(sorted, share).map_or(0, rounded_ms);
        format!("{} ms, 95th percentile {} ms, longest {} ms", ms(0.5), ms(0.95), ms(1.0))
    };
    let _ = writeln!(page, "\nAll direct pairs together: median {}.", summary(times.direct));
    let _ = writeln!(page, "\nAll relayed pairs together: median {}.", summary(times.relayed));
    let _ = writeln!(
        page,
        "\nDirect pairs over bad legs (each with 1 % loss, up to 10 ms of jitter, 1 % late, 0.5 % twice): \
        median {}.",
        summary(times.bad)
    );
    page.push_str("\nBesides:\n\n| pair | median / 95th percentile |\n| --- | --- |\n");
    for (beside, times) in besides {
        let _ = writeln!(page, "| {} | {} |", beside.name(), cell(times, beside.is_direct()));
    }
    page.push_str(
        "\nRelayed, because:\n\n| pair | why | what `status` says |\n| --- | --- | --- |\n",
    );
    for row in rows.iter().filter(|row| !row.expected.direct) {
        let Expectation { left, right, why, .. } = &row.expected;
        let reason = row.reason.as_deref().unwrap_or("–");
        let _ = writeln!(page, "| {left}, {right} | {why} | {reason} |");
    }
    page
}
