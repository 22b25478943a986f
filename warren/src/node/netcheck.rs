use std::net::SocketAddr;

use warren_node::local::{NetcheckReport, RelayReport};
use warren_proto::RelayTransport;

use crate::cli::Global;
use crate::output::{self, say};

/// `warren netcheck`.
pub(crate) async fn netcheck(global: &Global) -> anyhow::Result<()> {
    let report = super::client(global).netcheck().await?;
    if global.json {
        return output::json(&report);
    }
    print(&report);
    Ok(())
}

fn print(report: &NetcheckReport) {
    let udp = match report.nat.udp {
        Some(true) => "yes",
        Some(false) => "no answer over UDP from any STUN server",
        None => "not known yet",
    };
    say!("UDP:           {udp}");
    say!("IPv4:          {}", family(report.ipv4, report.public_ipv4, &report.mapping_ipv4));
    say!("IPv6:          {}", family(report.ipv6, report.public_ipv6, &report.mapping_ipv6));
    match (report.mappings.as_slice(), &report.mapping_note) {
        ([], Some(note)) => say!("Port mapping:  none: {note}"),
        ([], None) => say!("Port mapping:  none"),
        (mappings, _) => {
            for mapping in mappings {
                say!("Port mapping:  {} by {}", mapping.external, mapping.protocol);
            }
        }
    }
    for stun in &report.stun {
        let outcome = match (stun.mapped, stun.rtt_ms) {
            (Some(mapped), Some(rtt)) => format!("{rtt:.1} ms, sees {mapped}"),
            (Some(mapped), None) => format!("sees {mapped}"),
            (None, _) if stun.silent => "no answer".to_owned(),
            (None, _) => "not needed, not asked".to_owned(),
        };
        say!("STUN server:   {}: {outcome}", stun.server);
    }
    for relay in &report.relays {
        say!("Relay:         {}", describe(relay));
    }
    if let Some(rtt) = report.broker_rtt_ms {
        say!("Broker:        {rtt:.1} ms");
    }
    for note in &report.notes {
        say!("Note: {note}");
    }
}

fn describe(relay: &RelayReport) -> String {
    let name = &relay.name;
    let transport = |transport| match transport {
        RelayTransport::Udp => "UDP",
        RelayTransport::Tcp => "TCP",
        RelayTransport::Tls => "TLS",
        RelayTransport::Other => "something newer",
    };
    let mut text = match (relay.rtt_ms, relay.reached_by) {
        (Some(rtt), Some(RelayTransport::Udp)) => format!("{name}: {rtt:.1} ms"),
        (_, Some(by)) => format!("{name}: by {}", transport(by)),
        (_, None) => format!("{name}: no answer"),
    };
    if let Some(by) = relay.in_use {
        let peers = match relay.peers {
            1 => "1 device".to_owned(),
            n => format!("{n} devices"),
        };
        text.push_str(&format!(", in use by {} for {peers}", transport(by)));
    }
    if let Some(problem) = &relay.problem {
        text.push_str(&format!(", failed last: {problem}"));
    }
    text
}

fn family(has_address: bool, public: Option<SocketAddr>, mapping: &str) -> String {
    match (has_address, public) {
        (false, _) => "no".to_owned(),
        (true, None) => "no public address seen".to_owned(),
        (true, Some(public)) => format!("{public}, {mapping}"),
    }
}
