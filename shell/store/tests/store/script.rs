//! An endless, predetermined sequence of commits: what a database must hold after the `n`-th is
//! known from `n` alone, and the database itself says how far it came (in `next_host`).

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use warren_coord::{
    AccountRecord, AccountSettings, Change, DeviceLimit, DeviceRecord, EdgeItem, EdgeItemRecord,
    EdgeRecord, JoinKeyRecord, ListedRelay, PolicyRecord, RelayFace, RelayKind, RelayRecord,
    SecretHash, Snapshot, Tag, UnixTime, WebhookOff, WebhookRecord, WebhookSecret,
};
use warren_proto::{
    AccountId, DeviceId, ForwardId, ForwardProtocol, ForwardSpec, GatewayId, GatewaySpec,
    JoinKeyId, LanSource, LanTarget, MacAddr, Pin, Ports, PublicKey, RelayId, RelayTls, UserId,
    VirtualDeviceId, VirtualDeviceSpec, WebhookId,
};

pub(crate) const ACCOUNT: AccountId = AccountId(0xfeed_0000_0000_0001);

pub(crate) fn account(id: AccountId, name: &str) -> AccountRecord {
    let octet = u8::try_from(id.0 & 0xff).unwrap();
    AccountRecord {
        id,
        name: name.parse().unwrap(),
        ipv4_range: format!("100.{}.0.0/16", 70 + octet).parse().unwrap(),
        ipv6_range: format!("fd00:0:{octet}::/48").parse().unwrap(),
        next_host: 0,
        created: UnixTime(1_800_000_000),
        settings: AccountSettings::default(),
    }
}

fn settings(n: u32) -> AccountSettings {
    AccountSettings {
        suspended: n.is_multiple_of(13),
        device_limit: n.is_multiple_of(2).then_some(DeviceLimit(n)),
        activity_days: n.is_multiple_of(4).then_some(30),
        user_limit: n.is_multiple_of(7).then_some(n),
        device_approval: n.is_multiple_of(3),
        key_expiry_days: n.is_multiple_of(5).then_some(90),
    }
}

/// The changes of the `n`-th commit (from 1).
pub(crate) fn changes(n: u32) -> Vec<Change> {
    let slot = u8::try_from(n % 40).unwrap();
    let record = account(ACCOUNT, "home");
    let mut changes =
        vec![Change::Account(AccountRecord { next_host: n, settings: settings(n), ..record })];
    if n.is_multiple_of(7) {
        changes.push(Change::DeviceRemoved(device(slot, n).id));
        changes.push(Change::JoinKeyRemoved(join_key(slot, n).id));
        changes.push(Change::RelayRemoved(relay(slot, n).id));
        changes.push(Change::WebhookRemoved(webhook(slot, n).id));
        changes.push(Change::Revoked { device: device(slot, n).id, until: seconds(n) });
        changes.push(Change::Policy(policy(n)));
        changes.push(Change::RevocationOver(device((slot + 1) % 40, n).id));
        let edge = device((slot + 33) % 40, n).id;
        changes.push(Change::EdgeItemRemoved { edge, id: edge_item(edge, n).item.id() });
    } else {
        changes.push(Change::JoinKey(join_key(slot, n)));
        changes.push(Change::Device(device(slot, n)));
        changes.push(Change::Edge(EdgeRecord {
            device: device(slot, n).id,
            enabled: n.is_multiple_of(2),
            asked: n.is_multiple_of(3),
        }));
        changes.push(Change::EdgeItem(edge_item(device(slot, n).id, n)));
        changes.push(Change::Relay(relay(slot, n)));
        changes.push(Change::RelayList(relay_list(n)));
        changes.push(Change::Webhook(webhook(slot, n)));
        changes.push(Change::LastSeen { device: device((slot + 39) % 40, n).id, at: seconds(n) });
    }
    changes
}

/// What is there after `n` commits.
pub(crate) fn snapshot(n: u32) -> Snapshot {
    let mut snapshot = Snapshot::empty(account(ACCOUNT, "home"));
    for n in 1..=n {
        snapshot.apply(&changes(n));
    }
    snapshot
}

pub(crate) fn device(slot: u8, n: u32) -> DeviceRecord {
    DeviceRecord {
        id: DeviceId(0xde00_0000_0000_0000 + u64::from(slot)),
        key: PublicKey([slot; 32]),
        name: format!("device-{slot}-{}", n % 3).parse().unwrap(),
        ipv4: Ipv4Addr::new(100, 71, 1, slot),
        ipv6: Ipv6Addr::new(0xfd00, 0, 1, 0, 0, 0, 0, slot.into()),
        token: (!n.is_multiple_of(5)).then(|| SecretHash::of(&format!("token {n}"))),
        joined_by: (n.is_multiple_of(2)).then_some(JoinKeyId(u64::MAX - u64::from(n))),
        ephemeral: n.is_multiple_of(3),
        tags: tags(n),
        owner: (n.is_multiple_of(3)).then_some(UserId(u64::from(n) << 40)),
        approved: !n.is_multiple_of(9),
        expires: (n.is_multiple_of(3)).then(|| seconds(n + 7)),
        never_expires: n.is_multiple_of(4),
        static_endpoint: (n.is_multiple_of(4)).then(|| "[2001:db8::1]:51820".parse().unwrap()),
        os: "linux".to_owned(),
        software: format!("0.1.{n}"),
        created: seconds(slot.into()),
        last_seen: (!n.is_multiple_of(6)).then(|| seconds(n)),
    }
}

pub(crate) fn join_key(slot: u8, n: u32) -> JoinKeyRecord {
    JoinKeyRecord {
        id: JoinKeyId(u64::from(slot) + 1),
        hash: SecretHash::of(&format!("join key {slot}")),
        reusable: n.is_multiple_of(2),
        ephemeral: n.is_multiple_of(3),
        tags: tags(n + 1),
        owner: (n.is_multiple_of(5)).then_some(UserId(u64::from(n) << 40)),
        approves: n.is_multiple_of(4),
        created: seconds(slot.into()),
        expires: (n.is_multiple_of(2)).then(|| seconds(n + 1000)),
        last_used: (n.is_multiple_of(3)).then(|| seconds(n)),
        uses: n,
    }
}

fn webhook(slot: u8, n: u32) -> WebhookRecord {
    WebhookRecord {
        id: WebhookId(u64::from(slot) + 1),
        url: format!("https://example.org/{n}"),
        events: ["device".to_owned(), "policy.changed".to_owned()].into(),
        secret: WebhookSecret([slot; 32]),
        previous: n.is_multiple_of(3).then(|| (WebhookSecret([7; 32]), seconds(n + 9))),
        created: seconds(slot.into()),
        failing_since: n.is_multiple_of(5).then(|| seconds(n)),
        off: match n % 4 {
            0 => Some(WebhookOff::ByHand),
            1 => Some(WebhookOff::Failing),
            _ => None,
        },
    }
}

fn edge_item(edge: DeviceId, n: u32) -> EdgeItemRecord {
    let target = LanTarget {
        ip: Ipv4Addr::new(192, 168, 1, 9),
        mac: n.is_multiple_of(2).then_some(MacAddr([2, 0, 0, 0, 0, 9])),
    };
    let id = u64::from(n % 5) + 1;
    let item = match n % 3 {
        0 => EdgeItem::Forward(ForwardSpec {
            id: ForwardId(id),
            name: format!("forward '{n}'"),
            enabled: n.is_multiple_of(2),
            protocol: ForwardProtocol::Both,
            port: 8080,
            last_port: 8081,
            target,
            target_port: 80,
            source: LanSource::Masquerade,
            untested: false,
            allow: vec!["tag:server".to_owned()],
            schedule: None,
            note: "größer".to_owned(),
        }),
        1 => EdgeItem::VirtualDevice(VirtualDeviceSpec {
            id: VirtualDeviceId(id),
            name: format!("camera-{n}").parse().unwrap(),
            ipv4: Ipv4Addr::new(100, 71, 2, 9),
            enabled: true,
            target,
            ports: vec![Ports::Tcp(80, 90), Ports::Icmp],
            source: LanSource::Transparent,
            untested: false,
            note: String::new(),
        }),
        _ => EdgeItem::Gateway(GatewaySpec {
            standby_for: None,
            id: GatewayId(id),
            lan: "192.168.1.0/24".parse().unwrap(),
            mesh: "100.71.254.0/24".parse().unwrap(),
            enabled: n.is_multiple_of(4),
            source: LanSource::Masquerade,
            note: format!("note {n}"),
        }),
    };
    EdgeItemRecord { edge, item, created: seconds(n) }
}

fn relay(slot: u8, n: u32) -> RelayRecord {
    let kind = match slot % 3 {
        0 => RelayKind::Device(device(slot, n).id),
        1 => RelayKind::Server { token: SecretHash::of(&format!("relay {slot}")) },
        _ => RelayKind::Turn {
            url: format!("turn:relay-{slot}.example.org"),
            username: n.is_multiple_of(2).then(|| "bob".to_owned()),
        },
    };
    let tls = RelayTls {
        host: "relay.example.org".to_owned(),
        port: 443,
        server_name: None,
        pin: Some(Pin([slot; 32])),
    };
    RelayRecord {
        id: RelayId(0x5e00_0000_0000_0000 + u64::from(slot)),
        name: format!("relay-{slot}").parse().unwrap(),
        kind,
        secret: format!("secret {n}"),
        previous_secret: n.is_multiple_of(3).then(|| "secret before".to_owned()),
        face: RelayFace {
            udp: vec!["203.0.113.9:3478".parse().unwrap(), "[2001:db8::9]:3478".parse().unwrap()],
            tcp: Vec::new(),
            tls: if n.is_multiple_of(2) { vec![tls] } else { Vec::new() },
        },
        created: seconds(slot.into()),
    }
}

fn policy(n: u32) -> PolicyRecord {
    let text = n.is_multiple_of(2).then(|| format!("# The {n}th.\n[[rules]]\n"));
    PolicyRecord { version: n.into(), text }
}

fn relay_list(n: u32) -> Vec<ListedRelay> {
    let entry = |i| ListedRelay {
        relay: RelayId(u64::from(n.wrapping_mul(7) + i)),
        rank: u16::try_from(i / 2).unwrap(),
    };
    (0..n % 5).map(entry).collect()
}

fn tags(n: u32) -> BTreeSet<Tag> {
    (0..n % 4).map(|tag| format!("tag-{}", tag + n % 2).parse().unwrap()).collect()
}

fn seconds(n: u32) -> UnixTime {
    UnixTime(1_800_000_000 + u64::from(n))
}
