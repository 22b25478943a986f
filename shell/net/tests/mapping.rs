//! Port mapping against the real miniupnpd: a LAN, a router that masquerades and drops, a WAN.

mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::num::NonZeroU16;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::tools::tool;
use common::{Host, isolated, run, runtime};
use warren_net::{Mapping, MappingProtocol, NetworkWatch, PortMapper, PortMapperConfig};

const PORT: u16 = 40_404;
/// Not in miniupnpd's list of reserved networks.
const WAN: &str = "192.0.1.2";

const RULES: &str = r#"
table inet filter {
  chain miniupnpd {
  }
  chain input {
    type filter hook input priority 0
    policy accept
    QUIRK
  }
  chain forward {
    type filter hook forward priority 0
    policy drop
    ct state established,related accept
    iifname "lan" accept
    jump miniupnpd
  }
}
table inet nat {
  chain prerouting_miniupnpd {
  }
  chain postrouting_miniupnpd {
  }
  chain prerouting {
    type nat hook prerouting priority -100
    jump prerouting_miniupnpd
  }
  chain postrouting {
    type nat hook postrouting priority 100
    jump postrouting_miniupnpd
    oifname "wan" masquerade
  }
}
"#;

struct Lan {
    router: Host,
    internet: Host,
    natpmp: bool,
}

/// A miniupnpd that ends with its test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Lan {
    /// This namespace is the LAN's host; `quirk` is a rule of the router's input.
    fn new(quirk: &str, natpmp: bool) -> Self {
        let (router, internet) = (Host::new(), Host::new());
        router.connect("wan", "192.0.1.2/24", &internet, "eth0", "192.0.1.9/24");
        let tid = router.tid();
        run(&format!(
            "ip link add eth0 type veth peer name lan netns {tid}; ip link set eth0 up; \
             ip addr add 192.168.7.5/24 dev eth0"
        ));
        router.run("ip link set lan up; ip addr add 192.168.7.1/24 dev lan");
        run("ip route add default via 192.168.7.1");
        router.run("echo 1 >/proc/sys/net/ipv4/ip_forward");
        std::fs::write("/run/router.nft", RULES.replace("QUIRK", quirk)).expect("/run is ours");
        router.run("nft -f /run/router.nft");
        Self { router, internet, natpmp }
    }

    fn miniupnpd(&self) -> Daemon {
        let natpmp = if self.natpmp { "yes" } else { "no" };
        let upnp = if self.natpmp { "no" } else { "yes" };
        let config = format!(
            "ext_ifname=wan\nlistening_ip=lan\nport=0\nenable_natpmp={natpmp}\nenable_upnp={upnp}\n\
             min_lifetime=120\nmax_lifetime=86400\nsecure_mode=yes\nsystem_uptime=yes\n\
             notify_interval=60\nuuid=00000000-0000-0000-0000-000000000000\n\
             upnp_table_name=filter\nupnp_nat_table_name=nat\nupnp_forward_chain=miniupnpd\n\
             upnp_nat_chain=prerouting_miniupnpd\nupnp_nat_postrouting_chain=postrouting_miniupnpd\n\
             allow 1024-65535 192.168.7.0/24 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n"
        );
        std::fs::write("/run/miniupnpd.conf", config).expect("/run is ours");
        let program = tool("miniupnpd-nftables", "usr/sbin/miniupnpd");
        let child = self.router.within(move || {
            Command::new(program)
                .args(["-d", "-f", "/run/miniupnpd.conf", "-P", "/run/miniupnpd.pid"])
                .stdout(Stdio::null())
                .stderr(std::fs::File::create("/run/miniupnpd.log").expect("/run is ours"))
                .spawn()
                .expect("miniupnpd starts")
        });
        let ports = if self.natpmp { "5351" } else { "1900" };
        self.router.run(&format!(
            "for i in $(seq 200); do ss -uln | grep -q :{ports} && exit 0; sleep 0.05; done; \
             cat /run/miniupnpd.log; exit 1"
        ));
        Daemon(child)
    }

    /// A datagram from the WAN; whether it arrived at `socket`.
    fn arrives(&self, to: SocketAddr, socket: &UdpSocket) -> bool {
        self.internet.within(move || {
            // From another port each time: the router's connection tracking remembers.
            let socket = UdpSocket::bind("192.0.1.9:0").expect("a socket");
            socket.send_to(b"from the WAN", to).expect("it is taken");
        });
        let mut buffer = [0; 64];
        match socket.recv_from(&mut buffer) {
            Ok((len, from)) => {
                assert_eq!(&buffer[..len], b"from the WAN");
                assert_eq!(from.ip(), IpAddr::from([192, 0, 1, 9]));
                true
            }
            Err(_) => false,
        }
    }

    fn redirections(&self) -> usize {
        let text = self.router.run("nft list chain inet nat prerouting_miniupnpd");
        text.lines().filter(|line| line.contains("dnat")).count()
    }
}

fn config() -> PortMapperConfig {
    PortMapperConfig { port: NonZeroU16::new(PORT).expect("not zero"), nonce: [1, 2, 3] }
}

async fn mapped(
    mapper: &mut PortMapper,
    fits: impl Fn(Option<Mapping>) -> bool,
) -> Option<Mapping> {
    tokio::time::timeout(Duration::from_secs(40), async {
        loop {
            let mapping = mapper.mapping();
            if fits(mapping) {
                return mapping;
            }
            mapper.changed().await;
        }
    })
    .await
    .expect("in time")
}

/// Maps, is reachable from the WAN, remaps after the router's restart, follows a new address of
/// the host, and leaves nothing behind.
fn the_port_is_mapped_by(protocol: MappingProtocol, quirk: &str) {
    let lan = Lan::new(quirk, protocol != MappingProtocol::Upnp);
    let daemon = lan.miniupnpd();
    runtime().block_on(async {
        let watch = NetworkWatch::start().expect("a watch");
        let mut mapper = PortMapper::start(config(), watch.subscribe());
        let mapping = mapped(&mut mapper, |m| m.is_some()).await.expect("mapped");
        let external = format!("{WAN}:{PORT}").parse().expect("an address");
        let gateway = [192, 168, 7, 1].into();
        assert_eq!(mapping, Mapping { external, protocol, gateway });

        let socket = UdpSocket::bind(("0.0.0.0", PORT)).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
        assert!(lan.arrives(external.into(), &socket));

        // The router restarts and has forgotten everything.
        drop(daemon);
        lan.router.run("nft flush ruleset; nft -f /run/router.nft");
        assert_eq!(lan.redirections(), 0);
        let daemon = lan.miniupnpd();
        mapper.refresh();
        for _ in 0..400 {
            if lan.redirections() > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(lan.arrives(external.into(), &socket), "after the router's restart");

        // Another address of ours: DHCP gave a new lease.
        run("ip addr del 192.168.7.5/24 dev eth0; ip addr add 192.168.7.66/24 dev eth0; \
             ip route replace default via 192.168.7.1");
        for _ in 0..400 {
            let rules = lan.router.run("nft list chain inet nat prerouting_miniupnpd");
            if rules.contains("192.168.7.66") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // The old address can't delete its mapping any more, so the port outside may be another.
        let mut arrived = false;
        for _ in 0..10 {
            let mapping = mapped(&mut mapper, |m| m.is_some()).await.expect("mapped");
            arrived = arrived || lan.arrives(mapping.external.into(), &socket);
            if arrived {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert!(arrived, "at the new address");

        mapper.stop().await;
        let rules = lan.router.run("nft list chain inet nat prerouting_miniupnpd");
        assert!(!rules.contains("192.168.7.66"), "{rules}");
        drop(daemon);
    });
}

#[test]
fn pcp_maps_the_port() {
    unpacked_before_the_network_is_gone();
    isolated("pcp_maps_the_port", || the_port_is_mapped_by(MappingProtocol::Pcp, ""));
}

#[test]
fn nat_pmp_maps_the_port_where_pcp_is_unknown() {
    unpacked_before_the_network_is_gone();
    isolated("nat_pmp_maps_the_port_where_pcp_is_unknown", || {
        // A router that doesn't answer version 2.
        the_port_is_mapped_by(MappingProtocol::NatPmp, "udp dport 5351 @th,64,8 2 drop");
    });
}

#[test]
fn upnp_maps_the_port_where_nothing_else_does() {
    unpacked_before_the_network_is_gone();
    isolated("upnp_maps_the_port_where_nothing_else_does", || {
        the_port_is_mapped_by(MappingProtocol::Upnp, "");
    });
}

#[test]
fn without_a_router_that_maps_there_is_no_mapping_and_stopping_is_quick() {
    isolated("without_a_router_that_maps_there_is_no_mapping_and_stopping_is_quick", || {
        let _lan = Lan::new("", true);
        runtime().block_on(async {
            let watch = NetworkWatch::start().expect("a watch");
            let mut mapper = PortMapper::start(config(), watch.subscribe());
            let none = tokio::time::timeout(Duration::from_secs(1), mapper.changed()).await;
            assert!(none.is_err());
            assert_eq!(mapper.mapping(), None);
            tokio::time::timeout(Duration::from_secs(5), mapper.stop()).await.expect("in time");
        });
    });
}

/// Inside there is no internet.
fn unpacked_before_the_network_is_gone() {
    tool("miniupnpd-nftables", "usr/sbin/miniupnpd");
}
