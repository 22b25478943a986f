use serde::Serialize;
use warren_broker::admin::{Client, Edge, EdgeEdit, Wake};
use warren_proto::{ForwardSpec, GatewaySpec, VirtualDeviceSpec};

use crate::cli::Edges;
use crate::edge_tables;
use crate::output::{self, say};

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    edge: Edge,
    port_forwards: Vec<ForwardSpec>,
    devices: Vec<VirtualDeviceSpec>,
    networks: Vec<GatewaySpec>,
}

pub(crate) async fn run(client: &Client, command: Edges, json: bool) -> anyhow::Result<()> {
    match command {
        Edges::List(account) => {
            super::show(client.edges(&account.account), json, |edges| list(edges)).await
        }
        Edges::Show { account, edge } => {
            let account = account.account;
            let shown = Shown {
                edge: client.edge(&account, &edge).await?,
                port_forwards: client.forwards(&account, &edge).await?,
                devices: client.virtual_devices(&account, &edge).await?,
                networks: client.gateways(&account, &edge).await?,
            };
            if json {
                return output::json(&shown);
            }
            show(&shown);
            Ok(())
        }
        Edges::Wake { account, edge, mac } => {
            let wake = Wake { mac };
            let called = client.wake(&account.account, &edge, &wake);
            super::show(called, json, |edge| {
                say!(
                    "{} calls {mac}. What lets itself be woken answers within a minute.",
                    edge.name
                );
            })
            .await
        }
        Edges::Ask { account, edge, off } => {
            let edit = EdgeEdit { asked: Some(!off) };
            let asked = client.change_edge(&account.account, &edge, &edit);
            super::show(asked, json, |edge| list(std::slice::from_ref(edge))).await
        }
    }
}

fn state(edge: &Edge) -> &'static str {
    match (edge.enabled, edge.online) {
        (false, _) if edge.asked => "asked",
        (false, _) => "no edge now",
        (true, true) => "on",
        (true, false) => "offline",
    }
}

fn list(edges: &[Edge]) {
    let mut table =
        output::table(&["NAME", "ADDRESS", "STATE", "FORWARDS", "VIRTUAL DEVICES", "GATEWAYS"]);
    for edge in edges {
        table.add_row([
            edge.name.to_string(),
            edge.ipv4.to_string(),
            state(edge).to_owned(),
            edge.forwards.to_string(),
            edge.virtual_devices.to_string(),
            edge.gateways.to_string(),
        ]);
    }
    output::print_table(&table);
}

fn show(shown: &Shown) {
    let edge = &shown.edge;
    say!("{} ({}): {}", edge.dns_name, edge.ipv4, state(edge));
    if !edge.enabled {
        say!("What is set waits until somebody says `warren edge enable` on that device.");
    }
    for problem in &edge.problems {
        say!("Problem: {problem}");
    }
    if !shown.port_forwards.is_empty() {
        say!("\nPort forwards");
        edge_tables::forwards(&shown.port_forwards, None);
    }
    if !shown.devices.is_empty() {
        say!("\nVirtual devices");
        edge_tables::virtual_devices(&shown.devices, None);
    }
    if !shown.networks.is_empty() {
        say!("\nGateways");
        edge_tables::gateways(&shown.networks, None);
    }
}
