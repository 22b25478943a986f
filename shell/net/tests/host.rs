//! Addresses, routes, rules and their changes, in a namespace.

mod common;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::{attempt, isolated, run, runtime};
use socket2::{Domain, Socket, Type};
use warren_net::{
    ExitRoutes, Finding, HostConfig, HostNetwork, InterfaceConfig, NetworkState, NetworkWatch,
    Spare, Tun, TunConfig,
};

fn interface() -> InterfaceConfig {
    InterfaceConfig {
        ipv4: [100, 72, 0, 1].into(),
        ipv6: "fd00:72::1".parse().expect("an address"),
        range4: "100.72.0.0/16".parse().expect("a network"),
        range6: "fd00:72::/48".parse().expect("a network"),
        mtu: 1280,
        peers4: vec![[100, 72, 0, 1].into(), [100, 72, 0, 2].into(), [100, 72, 0, 3].into()],
        exit: None,
    }
}

fn open(name: &str) -> (Tun, HostNetwork) {
    let config = TunConfig { name: Some(name.to_owned()), ..TunConfig::default() };
    let tun = Tun::open(&config).expect("a TUN");
    let host = HostNetwork::new(&tun, HostConfig::default()).expect("a host");
    (tun, host)
}

/// Rules of ours in both families.
fn rules() -> usize {
    let text = run("ip rule show; ip -6 rule show");
    text.lines().filter(|line| line.contains("proto 119")).count()
}

/// A LAN with a default route.
fn lan() {
    run("ip link add eth0 type veth peer name lan0; ip link set lan0 up; ip link set eth0 up; \
         ip addr add 192.168.7.5/24 dev eth0; ip addr add 2001:db8:7::5/64 dev eth0 nodad; \
         ip route add default via 192.168.7.1; ip -6 route add default via 2001:db8:7::1");
}

#[test]
fn what_was_set_up_is_undone() {
    isolated("what_was_set_up_is_undone", || {
        lan();
        let before =
            run("ip rule; ip -6 rule; ip route show table all; ip -6 route show table all");
        runtime().block_on(async {
            let (tun, mut host) = open("mesh0");
            assert_eq!(host.configure(&interface()).expect("configured"), []);
            assert_eq!(tun.mtu().expect("an MTU"), 1280);
            let addresses = run("ip addr show mesh0");
            assert!(addresses.contains("100.72.0.1/32") && addresses.contains("fd00:72::1/128"));
            let route = run("ip route get 100.72.9.9");
            assert!(route.contains("dev mesh0") && route.contains("src 100.72.0.1"), "{route}");
            let route = run("ip route get fd00:72::9");
            assert!(route.contains("dev mesh0") && route.contains("src fd00:72::1"), "{route}");
            assert!(run("ip route get 100.73.0.1").contains("eth0"));
            assert_eq!(rules(), 2);

            // Again, with other addresses and another MTU.
            let other = InterfaceConfig { ipv4: [100, 72, 0, 9].into(), mtu: 1400, ..interface() };
            host.configure(&other).expect("configured");
            assert_eq!(rules(), 2);
            assert!(run("ip route get 100.72.9.9").contains("src 100.72.0.9"));
            assert!(!run("ip addr show mesh0").contains("100.72.0.1/32"));
            tun.set_mtu(1300).expect("it is taken");
            assert!(run("ip link show mesh0").contains("mtu 1300"));

            host.down().expect("down");
            assert_eq!(rules(), 0);
            assert!(run("ip route get 100.72.9.9").contains("eth0"));
            assert!(!run("ip addr show mesh0").contains("inet 100.72"));
            host.configure(&interface()).expect("up again");
            assert!(run("ip route get 100.72.9.9").contains("mesh0"));
            drop(host);
            drop(tun);
        });
        let after = run("ip rule; ip -6 rule; ip route show table all; ip -6 route show table all");
        assert_eq!(before, after);
    });
}

#[test]
fn marked_sockets_never_look_at_the_mesh() {
    isolated("marked_sockets_never_look_at_the_mesh", || {
        lan();
        runtime().block_on(async {
            let (_tun, mut host) = open("mesh0");
            let exit = Some(ExitRoutes { lan: false, names: true });
            host.configure(&InterfaceConfig { exit, ..interface() }).expect("configured");
            let mark = HostConfig::MARK;
            for there in ["8.8.8.8", "192.168.7.9", "100.72.0.2", "8.8.8.8 ipproto udp dport 53"] {
                assert!(run(&format!("ip route get {there}")).contains("mesh0"), "{there}");
                let marked = run(&format!("ip route get {there} mark {mark}"));
                assert!(marked.contains("eth0"), "{there}: {marked}");
            }
            for there in ["2001:db8:9::1", "2001:db8:9::1 ipproto udp dport 53"] {
                assert_eq!(way(there), "unreachable");
                assert_eq!(way(&format!("{there} mark {mark}")), "eth0");
            }
        });
    });
}

/// How a packet to `there` leaves the host: the interface, or `unreachable`.
fn way(there: &str) -> String {
    let text = run(&format!("ip route get {there} 2>&1 || true"));
    let text = text.replace("No route to host", "unreachable");
    for word in ["mesh0", "mesh1", "eth0", "unreachable"] {
        if text.to_lowercase().contains(word) {
            return word.to_owned();
        }
    }
    text
}

fn ways(destinations: &[&str]) -> Vec<String> {
    destinations.iter().map(|there| way(there)).collect()
}

#[test]
fn with_an_exit_node_all_goes_into_the_mesh_but_the_lan_and_ipv6_goes_nowhere() {
    isolated("with_an_exit_node_all_goes_into_the_mesh_but_the_lan_and_ipv6_goes_nowhere", || {
        lan();
        run("ip addr add 198.51.100.5/24 dev eth0; ip -6 addr add fd77::5/64 dev eth0 nodad");
        let all = "ip rule; ip -6 rule; ip route show table all; ip -6 route show table all";
        let before = run(all);
        runtime().block_on(async {
            let (tun, mut host) = open("mesh0");
            let with = |lan, names| InterfaceConfig {
                exit: Some(ExitRoutes { lan, names }),
                ..interface()
            };
            let exit = |lan| with(lan, true);
            host.configure(&exit(true)).expect("configured");
            let outside = ["8.8.8.8", "198.51.100.9", "10.9.9.9", "2001:db8:7::9", "2001:db8:9::1"];
            let expected = ["mesh0", "mesh0", "mesh0", "unreachable", "unreachable"];
            assert_eq!(ways(&outside), expected, "public addresses are no LAN's");
            let inside = ["192.168.7.9", "192.168.7.1", "224.0.0.251", "fd77::9"];
            assert_eq!(ways(&inside), ["eth0"; 4]);
            assert_eq!(ways(&["100.72.0.2", "fd00:72::9"]), ["mesh0"; 2]);
            // Names aren't asked of the LAN's devices, whatever programs are set to.
            let names: Vec<String> =
                ["192.168.7.1 ipproto udp dport 53", "192.168.7.9 ipproto tcp dport 853"]
                    .into_iter()
                    .chain([
                        "fd77::9 ipproto udp dport 53",
                        "fe80::9 ipproto udp dport 53 oif eth0",
                    ])
                    .map(way)
                    .collect();
            assert_eq!(names, ["mesh0", "mesh0", "unreachable", "unreachable"]);
            assert_eq!(way("192.168.7.1 ipproto udp dport 5353"), "eth0");
            // Another program's mark is none of the daemons'.
            assert_eq!(way("192.168.7.1 ipproto udp dport 53 mark 0x01000000"), "mesh0");
            run("ip link add docker0 type bridge; ip link set docker0 up; \
                 ip addr add 172.17.0.1/16 dev docker0");
            host.configure(&exit(true)).expect("configured");
            let container = run("ip route get 172.17.0.2 ipproto udp dport 53");
            assert!(container.contains("docker0"), "the host's own resolver: {container}");
            run("ip link del docker0");
            assert_eq!(
                way(&format!("192.168.7.1 ipproto udp dport 53 mark {}", HostConfig::MARK)),
                "eth0"
            );
            host.configure(&with(true, false)).expect("configured");
            assert_eq!(way("192.168.7.1 ipproto udp dport 53"), "eth0", "names are off");
            host.configure(&exit(true)).expect("configured");
            let mark = HostConfig::MARK;
            for there in outside {
                assert_eq!(way(&format!("{there} mark {mark}")), "eth0", "{there}");
            }
            run("sysctl -qw net.ipv4.conf.all.rp_filter=1");
            let findings = host.configure(&exit(true)).expect("configured");
            let strict = Finding::StrictReversePath { interface: "eth0".to_owned() };
            assert_eq!(findings, [strict], "peers' packets would be dropped");
            run("sysctl -qw net.ipv4.conf.all.rp_filter=2");
            assert_eq!(host.configure(&exit(false)).expect("configured"), []);
            assert_eq!(ways(&inside), ["mesh0", "mesh0", "mesh0", "unreachable"]);
            host.configure(&interface()).expect("configured");
            assert_eq!(ways(&outside), ["eth0"; 5]);
            host.configure(&exit(true)).expect("configured");
            drop(host);
            drop(tun);
        });
        assert_eq!(before, run(all));
    });
}

#[test]
fn a_crash_lets_nothing_out_beside_the_exit_node_until_the_next_start() {
    isolated("a_crash_lets_nothing_out_beside_the_exit_node_until_the_next_start", || {
        lan();
        let all = "ip rule; ip -6 rule; ip route show table all; ip -6 route show table all";
        let before = run(all);
        runtime().block_on(async {
            let exit = InterfaceConfig {
                exit: Some(ExitRoutes { lan: true, names: true }),
                ..interface()
            };
            let there = ["8.8.8.8", "2001:db8:9::1"];
            let (tun, mut crashed) = open("mesh0");
            crashed.configure(&exit).expect("configured");
            std::mem::forget(crashed);
            drop(tun);
            assert_eq!(ways(&there), ["unreachable"; 2]);
            assert_eq!(way("192.168.7.1"), "eth0", "the LAN stays");
            assert_eq!(way("192.168.7.1 ipproto udp dport 53"), "unreachable", "but no names");
            assert_eq!(HostNetwork::clean_up(Spare::Blocks).expect("cleaned"), 2);
            let (tun, mut again) = open("mesh1");
            assert_eq!(ways(&there), ["unreachable"; 2], "not before it is configured");
            again.configure(&exit).expect("configured");
            assert_eq!(ways(&there), ["mesh1", "unreachable"]);
            assert_eq!(rules(), 10);
            // An interface that fails is made anew in a moment.
            again.hold();
            drop(again);
            drop(tun);
            assert_eq!(ways(&there), ["unreachable"; 2]);
            assert_eq!(way("192.168.7.53"), "eth0", "the LAN stays");
            assert_eq!(way("192.168.7.53 ipproto udp dport 53"), "unreachable", "but no names");
            assert_eq!(HostNetwork::clean_up(Spare::Nothing).expect("cleaned"), 10);
            assert_eq!(ways(&there), ["eth0"; 2]);
        });
        assert_eq!(before, run(all));
        runtime().block_on(async {
            // Nor is anything left of one whose rules have gone, or that asks names elsewhere.
            for names in [false, true] {
                let exit = Some(ExitRoutes { lan: true, names });
                let (tun, mut crashed) = open("mesh0");
                crashed.configure(&InterfaceConfig { exit, ..interface() }).expect("configured");
                std::mem::forget(crashed);
                drop(tun);
                if names {
                    run("for at in 5180 5181 5182 5182 5183; do ip rule del priority $at; \
                         ip -6 rule del priority $at; done");
                }
                HostNetwork::clean_up(Spare::Nothing).expect("cleaned");
            }
        });
        assert_eq!(before, run(all));
    });
}

/// What the kernel says to a datagram to `there` from a socket that is bound to eth0.
fn bound(there: &str, mark: Option<u32>) -> Result<(), std::io::ErrorKind> {
    send(there, 0, Some("eth0"), mark)
}

fn send(
    there: &str,
    from_port: u16,
    interface: Option<&str>,
    mark: Option<u32>,
) -> Result<(), std::io::ErrorKind> {
    let there: SocketAddr = there.parse().expect("an address");
    let socket = Socket::new(Domain::for_address(there), Type::DGRAM, None).expect("a socket");
    socket.bind_device(interface.map(str::as_bytes)).expect("bound");
    socket.set_broadcast(true).expect("set");
    if let Some(mark) = mark {
        socket.set_mark(mark).expect("marked");
    }
    if from_port != 0 {
        let any: SocketAddr = (std::net::Ipv4Addr::UNSPECIFIED, from_port).into();
        socket.bind(&any.into()).expect("a port");
    }
    socket.send_to(b"?", &there.into()).map(drop).map_err(|error| error.kind())
}

const REFUSED: Result<(), std::io::ErrorKind> = Err(std::io::ErrorKind::PermissionDenied);
const UNREACHABLE: Result<(), std::io::ErrorKind> = Err(std::io::ErrorKind::NetworkUnreachable);

#[test]
fn a_socket_bound_to_an_interface_passes_no_exit_node_by() {
    isolated("a_socket_bound_to_an_interface_passes_no_exit_node_by", || {
        lan();
        run("ip -6 addr add fd77::5/64 dev eth0 nodad");
        runtime().block_on(async {
            let with = |lan, names| InterfaceConfig {
                exit: Some(ExitRoutes { lan, names }),
                ..interface()
            };
            let (tun, mut host) = open("mesh0");
            host.configure(&interface()).expect("configured");
            assert_eq!(bound("8.8.8.8:443", None), Ok(()), "the test itself");
            assert_eq!(host.configure(&with(true, true)).expect("configured"), []);
            let public = ["8.8.8.8:443", "8.8.8.8:53", "[2001:db8:9::1]:443", "[ff0e::fb]:5353"];
            let names = ["192.168.7.1:53", "192.168.7.1:853", "[fd77::9]:53", "[fe80::9%eth0]:53"];
            let lan = [
                "192.168.7.1:80",
                "192.168.7.9:5353",
                "224.0.0.251:5353",
                "255.255.255.255:9",
                "[fd77::9]:80",
                "[ff02::fb%2]:5353",
                "[ff12::8384%2]:21027",
            ];
            let names = names.map(|there| there.replace("%eth0", &scope()));
            let lan: Vec<String> =
                lan.into_iter().map(|there| there.replace("%2", &scope())).collect();
            for there in public.iter().copied().chain(names.iter().map(String::as_str)) {
                // Names by IPv6 already by a rule.
                let by_rule = there.starts_with('[') && there.ends_with(":53");
                let expected = if by_rule { UNREACHABLE } else { REFUSED };
                assert_eq!(bound(there, None), expected, "{there}");
                assert_eq!(bound(there, Some(1 << 24)), expected, "{there}, another's mark");
                assert_eq!(bound(there, Some(HostConfig::MARK)), Ok(()), "{there}, our mark");
            }
            for there in &lan {
                assert_eq!(bound(there, None), Ok(()), "{there}");
            }
            // Who isn't bound goes by the exit node; the host's own resolver stays.
            assert_eq!(send("8.8.8.8:53", 0, None, None), Ok(()));
            assert_eq!(send("127.0.0.53:53", 0, None, None), Ok(()));

            host.configure(&with(true, false)).expect("configured");
            assert_eq!(bound("192.168.7.1:53", None), Ok(()), "names are off");
            host.configure(&with(false, true)).expect("configured");
            for there in lan.iter().chain([&format!("[fe80::9{}]:80", scope())]) {
                assert_eq!(bound(there, None), REFUSED, "{there}");
            }
            // So many networks of containers find room.
            let batch = (0..250).map(|n| {
                let address = format!("address add 172.20.{n}.1/24 dev br{n}");
                format!("link add br{n} type bridge\nlink set br{n} up\n{address}\n")
            });
            std::fs::write("/run/bridges", batch.collect::<String>()).expect("written");
            run("ip -batch /run/bridges");
            assert_eq!(host.configure(&with(true, true)).expect("configured"), []);
            assert_eq!(send("172.20.9.9:53", 0, Some("br9"), None), Ok(()), "the host's own");
            assert_eq!(host.configure(&with(false, true)).expect("configured"), []);
            assert_eq!(send("172.20.9.9:53", 0, Some("br9"), None), Ok(()), "the host's own");
            assert_eq!(send("172.20.9.9:80", 0, Some("br9"), None), REFUSED);
            // An address is kept, and neighbours are found.
            assert_eq!(send("192.168.7.1:67", 68, Some("eth0"), None), Ok(()));
            assert_eq!(run("nft list tables").lines().count(), 1);

            // A crash lets nothing out, nor does the next start before it is configured.
            std::mem::forget(host);
            drop(tun);
            assert_eq!(bound("8.8.8.8:443", None), REFUSED);
            HostNetwork::clean_up(Spare::Blocks).expect("cleaned");
            let (tun, mut host) = open("mesh1");
            assert_eq!(bound("8.8.8.8:443", None), REFUSED);
            host.configure(&with(true, true)).expect("configured");
            assert_eq!(bound("8.8.8.8:443", None), REFUSED);
            assert_eq!(bound("192.168.7.1:80", None), Ok(()), "the old one has gone");
            host.configure(&interface()).expect("configured");
            assert_eq!(bound("8.8.8.8:443", None), Ok(()));
            host.configure(&with(true, true)).expect("configured");
            host.down().expect("down");
            assert_eq!(run("nft list tables"), "");
            host.configure(&with(true, true)).expect("configured");
            drop((host, tun));
            assert_eq!(run("nft list tables"), "");
            let (tun, mut host) = open("mesh0");
            host.configure(&with(true, true)).expect("configured");
            std::mem::forget(host);
            drop(tun);
            HostNetwork::clean_up(Spare::Nothing).expect("cleaned");
            assert_eq!(run("nft list tables"), "");
            // One that was saved with the host's ruleset, and loaded again at a boot.
            let (tun, mut host) = open("mesh0");
            host.configure(&with(true, true)).expect("configured");
            run("nft list ruleset > /run/rules");
            host.configure(&interface()).expect("configured");
            drop(host);
            run("nft -f /run/rules");
            let mut host = HostNetwork::new(&tun, HostConfig::default()).expect("a host");
            assert_eq!(bound("8.8.8.8:443", None), REFUSED, "the test itself");
            host.configure(&interface()).expect("configured");
            assert_eq!(run("nft list tables"), "");
        });
    });
}

/// The name of an exit node's table.
fn guard() -> String {
    let tables = run("nft list tables");
    let found = tables.split_whitespace().find(|word| word.starts_with("warren-exit-"));
    found.expect("one").to_owned()
}

/// The suffix of a link-local address on eth0.
fn scope() -> String {
    format!("%{}", run("ip -o link show eth0 | cut -d: -f1").trim())
}

#[test]
fn another_accounts_mesh_on_the_same_host_stays_reachable_beside_an_exit_node() {
    isolated("another_accounts_mesh_on_the_same_host_stays_reachable_beside_an_exit_node", || {
        lan();
        let exit = Some(ExitRoutes { lan: true, names: true });
        let other = InterfaceConfig {
            ipv4: [100, 73, 0, 1].into(),
            range4: "100.73.0.0/16".parse().expect("a network"),
            ipv6: "fd00:73::1".parse().expect("an address"),
            range6: "fd00:73::/48".parse().expect("a network"),
            ..interface()
        };
        runtime().block_on(async {
            // Whichever of them was there first.
            for [first, second] in [[true, false], [false, true]] {
                let (_tun, mut host) = open("mesh0");
                let (_tun1, mut host1) = open("mesh1");
                if first {
                    host.configure(&InterfaceConfig { exit, ..interface() }).expect("configured");
                }
                host1.configure(&other).expect("configured");
                if second {
                    host.configure(&InterfaceConfig { exit, ..interface() }).expect("configured");
                }
                assert_eq!(
                    ways(&["100.73.0.9", "fd00:73::9", "8.8.8.8"]),
                    ["mesh1", "mesh1", "mesh0"]
                );
                assert_eq!(way("100.73.0.9 ipproto udp dport 53"), "mesh1");
                assert_eq!(send("100.73.0.9:53", 0, Some("mesh1"), None), Ok(()));
            }
        });
    });
}

#[test]
fn rules_of_a_crashed_instance_go_at_the_next_start_and_living_ones_stay() {
    isolated("rules_of_a_crashed_instance_go_at_the_next_start_and_living_ones_stay", || {
        runtime().block_on(async {
            let (_alive, mut living) = open("alive0");
            living.configure(&interface()).expect("configured");
            let (tun, mut crashed) = open("crash0");
            crashed.configure(&interface()).expect("configured");
            assert_eq!(rules(), 4);
            std::mem::forget(crashed);
            drop(tun);
            assert_eq!(rules(), 4, "a crash leaves them");
            let (_again, _host) = open("crash0");
            assert_eq!(rules(), 2);
            assert_eq!(HostNetwork::clean_up(Spare::Nothing).expect("cleaned"), 0);
            drop(living);
            assert_eq!(rules(), 0);
        });
    });
}

#[test]
fn a_clash_leaves_the_range_to_the_host_and_routes_the_peers() {
    isolated("a_clash_leaves_the_range_to_the_host_and_routes_the_peers", || {
        lan();
        run("ip addr add 100.72.200.7/24 dev eth0");
        runtime().block_on(async {
            let (_tun, mut host) = open("mesh0");
            let findings = host.configure(&interface()).expect("configured");
            assert!(
                matches!(
                    findings.as_slice(),
                    [Finding::AddressClash { interface, network, .. }]
                        if interface == "eth0" && network.to_string() == "100.72.200.0/24"
                ),
                "{findings:?}"
            );
            assert_eq!(findings[0].code(), "address-clash");
            assert!(findings[0].to_string().contains("eth0"));
            assert!(run("ip route get 100.72.0.2").contains("mesh0"));
            assert!(run("ip route get 100.72.0.3").contains("mesh0"));
            assert!(run("ip route get 100.72.200.9").contains("eth0"));
            // It has gone: the whole range again.
            run("ip addr del 100.72.200.7/24 dev eth0");
            assert_eq!(host.configure(&interface()).expect("configured"), []);
            assert!(run("ip route get 100.72.200.9").contains("mesh0"));
            assert!(!run("ip route show table all").contains("100.72.0.2 dev mesh0"));
        });
    });
}

#[test]
fn another_node_of_the_account_on_this_host_is_no_clash_to_tell_of() {
    isolated("another_node_of_the_account_on_this_host_is_no_clash_to_tell_of", || {
        lan();
        run("ip addr add 100.72.0.2/32 dev eth0");
        runtime().block_on(async {
            let (_tun, mut host) = open("mesh0");
            assert_eq!(host.configure(&interface()).expect("configured"), []);
            assert!(run("ip route get 100.72.0.3").contains("mesh0"));
            assert!(!run("ip route get 100.72.200.9 || true").contains("mesh0"));
        });
    });
}

#[test]
fn a_host_without_ipv6_gets_ipv4_and_a_finding() {
    isolated("a_host_without_ipv6_gets_ipv4_and_a_finding", || {
        let off = "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; \
                   echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6";
        let (_, text) = attempt(off);
        assert!(
            std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6")
                .is_ok_and(|value| value.trim() == "1"),
            "{text}"
        );
        runtime().block_on(async {
            let (_tun, mut host) = open("mesh0");
            let findings = host.configure(&interface()).expect("configured");
            assert_eq!(findings, [Finding::NoIpv6]);
            assert!(run("ip route get 100.72.0.2").contains("mesh0"));
        });
    });
}

async fn next(watch: &mut NetworkWatch) -> NetworkState {
    tokio::time::timeout(Duration::from_secs(10), watch.changed()).await.expect("a change")
}

fn has(state: &NetworkState, ip: &str) -> bool {
    let ip: IpAddr = ip.parse().expect("an address");
    state.addresses.iter().any(|address| address.ip == ip)
}

/// Follows changes until one fits; several may come one by one.
async fn until(watch: &mut NetworkWatch, fits: impl Fn(&NetworkState) -> bool) -> NetworkState {
    loop {
        let state = next(watch).await;
        if fits(&state) {
            return state;
        }
    }
}

#[test]
fn changes_of_addresses_links_and_routes_are_seen_but_not_our_own() {
    isolated("changes_of_addresses_links_and_routes_are_seen_but_not_our_own", || {
        lan();
        runtime().block_on(async {
            let mut watch = NetworkWatch::start().expect("a watch");
            let state = watch.state();
            assert!(has(&state, "192.168.7.5") && has(&state, "2001:db8:7::5"), "{state:?}");
            assert!(!state.addresses.iter().any(|a| a.ip.is_loopback()));
            assert_eq!(state.gateway4, Some([192, 168, 7, 1].into()));
            assert_eq!(state.gateway6, Some("2001:db8:7::1".parse().expect("an address")));
            let eth0 = state.default_interface4.expect("an interface");
            let lan = state.addresses.iter().find(|a| a.ip.is_ipv4()).expect("an address");
            assert_eq!((lan.prefix_len, lan.interface), (24, eth0));

            // Our own interface, up and down, is no change.
            let (tun, mut host) = open("mesh0");
            host.configure(&interface()).expect("configured");
            drop((tun, host));
            let quiet = tokio::time::timeout(Duration::from_millis(400), watch.changed()).await;
            assert!(quiet.is_err(), "{quiet:?}");

            run("ip addr add 10.1.2.3/16 dev eth0; ip addr add 2001:db8:8::8/64 dev eth0 nodad");
            until(&mut watch, |s| has(s, "10.1.2.3") && has(s, "2001:db8:8::8")).await;
            run("ip addr del 10.1.2.3/16 dev eth0");
            until(&mut watch, |s| !has(s, "10.1.2.3")).await;
            run("ip route replace default via 192.168.7.254");
            until(&mut watch, |s| s.gateway4 == Some([192, 168, 7, 254].into())).await;
            run("ip link set lan0 down");
            let state = until(&mut watch, |s| !has(s, "192.168.7.5")).await;
            assert!(state.addresses.is_empty(), "no carrier: {state:?}");
            run("ip link set lan0 up");
            until(&mut watch, |s| has(s, "192.168.7.5")).await;
        });
    });
}

#[test]
fn rules_that_another_program_removes_are_missed_and_come_back() {
    isolated("rules_that_another_program_removes_are_missed_and_come_back", || {
        lan();
        runtime().block_on(async {
            let (_tun, mut host) = open("mesh0");
            host.configure(&interface()).expect("configured");
            let mut watch = NetworkWatch::start().expect("a watch");
            // As systemd-networkd does with rules that it doesn't know.
            run("ip rule del priority 5180; ip -6 rule del priority 5180");
            let state = until(&mut watch, |state| state.lost_rules > 0).await;
            assert!(has(&state, "192.168.7.5"));
            assert_eq!(rules(), 0);
            host.configure(&interface()).expect("configured");
            assert_eq!(rules(), 2);

            // Taking it down ourselves is no loss.
            let lost = watch.state().lost_rules;
            host.down().expect("down");
            let quiet = tokio::time::timeout(Duration::from_millis(400), watch.changed()).await;
            assert!(quiet.is_err() || watch.state().lost_rules == lost, "{quiet:?}");

            let exit = Some(ExitRoutes { lan: true, names: true });
            let with_exit = InterfaceConfig { exit, ..interface() };
            host.configure(&with_exit).expect("configured");
            run("ip addr add 192.168.8.5/24 dev eth0");
            until(&mut watch, |state| has(state, "192.168.8.5")).await;
            let lost = watch.state().lost_rules;
            run("ip rule del dport 853");
            until(&mut watch, |state| state.lost_rules > lost).await;
            // As firewalls do that are loaded anew.
            let chain = format!("flush chain inet {} output", guard());
            for flush in ["flush ruleset", &chain] {
                host.configure(&with_exit).expect("configured");
                run("ip addr add 192.168.9.5/24 dev eth0");
                until(&mut watch, |state| has(state, "192.168.9.5")).await;
                let lost = watch.state().lost_rules;
                run("nft add table inet others; nft delete table inet others");
                let quiet = tokio::time::timeout(Duration::from_millis(400), watch.changed()).await;
                assert!(quiet.is_err(), "another's table: {quiet:?}");
                run(&format!("nft {flush}"));
                until(&mut watch, |state| state.lost_rules > lost).await;
                run("ip addr del 192.168.9.5/24 dev eth0");
                until(&mut watch, |state| !has(state, "192.168.9.5")).await;
            }
        });
    });
}
