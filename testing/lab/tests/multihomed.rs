//! Servers on a host with several addresses, bound to all of them: whoever asks one address hears from
//! that one, as NATs and connected sockets demand.

mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::SECOND;
use warren_lab::warren::Warren;
use warren_lab::{Host, Plug, World, isolated, wait_for};

/// A host with two IPv4 and two IPv6 addresses, and a client elsewhere.
fn hosts(world: &World) -> Result<(Host, Vec<IpAddr>, Host)> {
    let server = world.host("server")?;
    let links = [
        world.internet().plug(&server, &Plug::dual())?,
        world.internet().plug(&server, &Plug::dual())?,
    ];
    let mut addresses: Vec<IpAddr> = Vec::new();
    for link in &links {
        addresses.extend([IpAddr::from(link.v4()?), IpAddr::from(link.v6()?)]);
    }
    let client = world.host("client")?;
    world.internet().plug(&client, &Plug::dual())?;
    Ok((server, addresses, client))
}

/// Asks `server` for the own address, with a CHANGE-REQUEST for its other port if wanted; hears
/// nothing but what comes from `from`.
fn ask(client: &Host, server: SocketAddr, other_port: bool, from: SocketAddr) -> Result<()> {
    let mut request = [&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42][..], &[7; 12]].concat();
    if other_port {
        request[3] = 8;
        request.extend([0, 3, 0, 4, 0, 0, 0, 2]);
    }
    // Room for the answer, which is no longer than four requests.
    request[3] += 20;
    request.extend([0x80, 0x22, 0, 16]);
    request.extend([b' '; 16]);
    client.enter(|| {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        let mut answer = [0; 512];
        wait_for("an answer", 10 * SECOND, || {
            socket.send_to(&request, server)?;
            let Ok((length, source)) = socket.recv_from(&mut answer) else { return Ok(None) };
            ensure!(answer[..2] == [1, 1] && length > 20, "it is refused");
            ensure!(source == from, "{server} was asked, {source} answers");
            Ok(Some(()))
        })
    })?
}

#[test]
fn a_relay_answers_and_relays_from_the_address_that_was_asked() {
    isolated(|world| {
        let (server, addresses, client) = hosts(world)?;
        let users = server.folder().join("users");
        std::fs::write(&users, "alice:wonder\n")?;
        let mut command = Warren::locate()?.on(&server);
        command.args(["relay", "--standalone", "--users"]).args([&users]);
        let _relay = command.spawn()?;
        for address in &addresses {
            let asked = SocketAddr::new(*address, 3478);
            ask(&client, asked, false, asked)?;
            // Its sockets are connected: they take nothing from elsewhere.
            let address = address.to_string();
            let words = ["turnutils_uclient", "-y", "-c", "-n", "10", "-m", "2", "-u", "alice"];
            let said = client.run(&[&words[..], &["-w", "wonder", &address]].concat())?;
            ensure!(said.contains("Total lost packets 0 "), "{address}: {said}");
            ensure!(said.contains("tot_recv_msgs=20"), "{address}: {said}");
        }
        Ok(())
    });
}

#[test]
fn a_brokers_stun_and_relay_answer_from_the_address_that_was_asked() {
    isolated(|world| {
        let (server, addresses, client) = hosts(world)?;
        let warren = Warren::locate()?;
        for flags in [&["--no-relay"][..], &[]] {
            let mut command = warren.on(&server);
            let data = server.folder().join(format!("data{}", flags.len()));
            let data = data.to_str().context("a path")?;
            let mut broker = command.args(["serve", "--data", data]).args(flags).spawn()?;
            for address in &addresses {
                let (asked, other) =
                    (SocketAddr::new(*address, 3478), SocketAddr::new(*address, 3479));
                ask(&client, asked, false, asked)?;
                ask(&client, asked, true, other)?;
                ask(&client, other, true, asked)?;
            }
            broker.stop(20 * SECOND)?;
        }
        Ok(())
    });
}
