//! The table's text, held to a file: whoever changes it sees what the kernel is told.
//! `WARREN_REGENERATE=1` writes it anew.

use std::path::Path;

use warren_edge::kernel::bounds::Shares;
use warren_edge::kernel::opening::{OpenDevice, OpenForward, OpenGateway, Opening};
use warren_edge::kernel::render::{Surface, render, table_name};
use warren_proto::{ForwardId, ForwardProtocol, GatewayId, LanSource, Ports, VirtualDeviceId};

fn forward(
    id: u64,
    protocol: ForwardProtocol,
    ports: (u16, u16),
    to: u16,
    source: LanSource,
) -> OpenForward {
    let target = [192, 168, 1, 9].into();
    let (port, last_port) = ports;
    OpenForward { id: ForwardId(id), protocol, port, last_port, target, target_port: to, source }
}

fn gateway(id: u64, mesh: &str, lan: &str) -> OpenGateway {
    OpenGateway {
        id: GatewayId(id),
        mesh: mesh.parse().expect("a network"),
        lan: lan.parse().expect("a network"),
        source: LanSource::Masquerade,
    }
}

fn device(id: u64, last: u8, ports: Vec<Ports>) -> OpenDevice {
    OpenDevice {
        id: VirtualDeviceId(id),
        ipv4: [100, 80, 7, last].into(),
        target: [192, 168, 1, 20 + last].into(),
        ports,
        source: LanSource::Masquerade,
    }
}

#[test]
fn the_table_is_what_the_file_says() {
    use ForwardProtocol::{Both, Tcp, Udp};
    use LanSource::{Masquerade, Transparent};
    let opening = Opening {
        forwards: vec![
            forward(1, Both, (8080, 8080), 80, Masquerade),
            forward(2, Tcp, (8000, 8010), 8000, Masquerade),
            forward(3, Udp, (7000, 7002), 5060, Transparent),
        ],
        devices: vec![
            device(1, 1, vec![Ports::All]),
            device(
                2,
                2,
                vec![Ports::Tcp(80, 90), Ports::Tcp(85, 99), Ports::Icmp, Ports::Udp(53, 53)],
            ),
        ],
        gateways: vec![
            gateway(1, "100.80.16.0/24", "192.168.1.0/24"),
            gateway(2, "10.7.0.0/16", "10.7.0.0/16"),
            gateway(3, "0.0.0.0/0", "0.0.0.0/0"),
        ],
        ..Opening::nothing([100, 80, 0, 1].into())
    };
    let surface = Surface {
        table: table_name("warren0"),
        mesh: "warren0".to_owned(),
        lan: ["eth0".to_owned(), "eth1".to_owned()].into(),
        switched_on: ["eth0".to_owned()].into(),
        shares: Some(Shares { one: 2048, part: 4096, one6: 512, part6: 1024 }),
        helpers: true,
    };
    let bare = Surface { shares: None, helpers: false, ..surface.clone() };
    let bare = render(&opening, &bare);
    for optional in ["ct count", "bounded", "set held", "ct helper"] {
        assert!(!bare.contains(optional), "a kernel without it refuses the whole: {optional}");
    }
    let text = render(&opening, &surface);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/table.nft");
    if std::env::var_os("WARREN_REGENERATE").is_some() {
        std::fs::write(&file, &text).expect("the file is written");
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(text, expected, "WARREN_REGENERATE=1 writes {}", file.display());
}

#[test]
fn an_interface_with_an_odd_name_gets_a_table_with_a_plain_one() {
    assert_eq!(table_name("warren0"), "warren-edge-warren0");
    assert_eq!(table_name("mesh.5:x\""), "warren-edge-mesh_5_x_");
}
