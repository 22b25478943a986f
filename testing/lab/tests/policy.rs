//! Policy in force: what runs through real tunnels stops and starts with a change of the text.

mod common;

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, Result, ensure};
use common::running_ping::{IN_FORCE, pair};
use common::{Lab, SECOND, mesh_ipv4};
use serde_json::{Value, json};
use warren_lab::warren::{Broker, Node};
use warren_lab::{Host, isolated};

const OPEN: &str = "[[rules]]\nfrom = '*'\nto = '*'\n";
const WEB_ONLY: &str = "[[rules]]\nname = 'web'\nfrom = 'device:laptop'\nto = 'device:server'\n\
                        ports = ['tcp:80', 'icmp']\n";
const NOTHING: &str = "# Nobody reaches anybody.\n";

fn set_policy(broker: &Broker, text: &str) -> Result<()> {
    let file = broker.host().folder().join("policy.toml");
    std::fs::write(&file, text)?;
    broker.change(&["policy", "set", &file.to_string_lossy()]).map(|_| ())
}

/// Whether a connection is accepted within a second.
fn connects(from: &Host, to: SocketAddr) -> Result<bool> {
    from.enter(|| TcpStream::connect_timeout(&to, SECOND).is_ok())
}

fn listen(host: &Host, at: SocketAddr) -> Result<()> {
    let listener = host.enter(|| TcpListener::bind(at))??;
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let _ = client.write_all(b"here\n");
        }
    });
    Ok(())
}

#[test]
fn a_running_ping_is_cut_by_a_policy_and_goes_on_when_it_is_allowed_again() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let (mut laptop, mut server, _router, ping) = pair(&lab)?;
        set_policy(&lab.broker, NOTHING)?;
        ping.is_cut()?;
        let nobody = |status: &warren_lab::warren::Status| status.peers.is_empty();
        laptop.wait_status("sees nobody", SECOND, nobody)?;
        server.wait_status("sees nobody", SECOND, nobody)?;
        set_policy(&lab.broker, OPEN)?;
        ping.flows(10 * SECOND)?;
        Ok(())
    });
}

#[test]
fn a_rule_of_ports_lets_the_web_through_and_keeps_ssh_out() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let (laptop, server, _router, ping) = pair(&lab)?;
        let (there, back) = (mesh_ipv4(&server)?, mesh_ipv4(&laptop)?);
        for port in [22, 80] {
            listen(server.host(), (there, port).into())?;
        }
        listen(laptop.host(), (back, 80).into())?;
        let (ssh, web) = ((there, 22).into(), (there, 80).into());
        ensure!(connects(laptop.host(), ssh)? && connects(laptop.host(), web)?, "before");
        set_policy(&lab.broker, WEB_ONLY)?;
        std::thread::sleep(IN_FORCE);
        ensure!(connects(laptop.host(), web)?, "the web is let through");
        ensure!(!connects(laptop.host(), ssh)?, "SSH is kept out");
        ensure!(!connects(server.host(), (back, 80).into())?, "the server may only answer");
        ping.flows(SECOND)?;
        the_nodes_say_why(&laptop, &server)?;
        set_policy(&lab.broker, OPEN)?;
        std::thread::sleep(IN_FORCE);
        ensure!(connects(laptop.host(), ssh)?, "SSH is allowed again");
        ensure!(connects(server.host(), (back, 80).into())?, "so is the way back");
        Ok(())
    });
}

/// What each of them knows of it by itself.
fn the_nodes_say_why(laptop: &Node, server: &Node) -> Result<()> {
    let ask = |port: &str| -> Result<Value> {
        Ok(serde_json::from_str(&server.run(&["why", "laptop", "server", port, "--json"])?)?)
    };
    let (ssh, web) = (ask("22")?, ask("80")?);
    ensure!(ssh["is_let_in"] == false && web["is_let_in"] == true, "{ssh}\n{web}");
    ensure!(ssh["this_asks"] == false && ssh["lets_in"] == json!(["tcp:80", "icmp"]), "{ssh}");
    let fates = ssh["candidates"].as_array().context("candidates")?.iter();
    ensure!(fates.clone().any(|it| it["fate"] == "in-use"), "{ssh}");
    let said = laptop.run(&["why", "laptop", "server", "22"])?;
    ensure!(said.contains("server may only answer laptop"), "{said}");
    ensure!(said.contains("in use, answers in ") && said.contains("warren admin why"), "{said}");
    common::refused(&laptop.cli(&["why", "phone", "server"])?, "this device is laptop")?;
    common::refused(&laptop.cli(&["why", "laptop", "nobody"])?, "was told of no 'nobody'")?;
    Ok(())
}
