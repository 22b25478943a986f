//! Names resolve on the device by the system's own resolver, and nothing is left of it afterwards.

mod common;

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};

use anyhow::{Context, Result, ensure};
use common::{Lab, SECOND};
use warren_lab::{Host, Plug, isolated};

/// A DNS server that answers every A question with 192.0.2.99 and all else with nothing.
fn start_dns(host: &Host, address: Ipv4Addr) -> Result<()> {
    let socket = host.enter(|| UdpSocket::bind((address, 53)))??;
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            if let Some(answer) = answer(&query[..length]) {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    Ok(())
}

/// RFC 1035 §4: header, the question as it came, one answer that points at it.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let question = query.get(12..)?;
    let name = question.iter().position(|&length| length == 0)?;
    let question = question.get(..name + 5)?;
    let is_a = question.get(name + 1..name + 3)? == [0, 1];
    let mut out = query.get(..2)?.to_vec();
    out.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    out.extend(question);
    if is_a {
        out.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 99]);
    }
    Some(out)
}

fn resolve(host: &Host, database: &str, name: &str) -> Result<String> {
    let output = host.command("getent").args([database, name]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn devices_resolve_by_name_both_ways_others_are_forwarded_and_nothing_stays() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let dns = world.host("dns")?;
        let dns_address = world.internet().plug(&dns, &Plug::ipv4())?.v4()?;
        start_dns(&dns, dns_address)?;
        let (host, _) = lab.host("laptop", world.internet(), &Plug::ipv4())?;
        let original = format!("# by hand\nnameserver {dns_address}\n");
        fs::write(host.resolv_conf(), &original)?;
        let mut laptop = lab.join(&host)?;
        let (desktop, _) = lab.public_node("desktop")?;
        laptop.wait_peers(&["desktop"])?;
        let peer = laptop.peer("desktop")?;
        let full = desktop.status()?.node.dns_name.context("no DNS name")?;
        ensure!(full == "desktop.home.warren.internal", "it is called {full}");

        let (ipv4, ipv6) = (peer.ipv4.to_string(), peer.ipv6.to_string());
        warren_lab::wait_until("the resolver to be wired in", 10 * SECOND, || {
            Ok(fs::read_to_string(host.resolv_conf())? != original)
        })?;
        for name in [full.as_str(), "desktop"] {
            let a = resolve(&host, "ahostsv4", name)?;
            ensure!(a.contains(&ipv4), "{name} A: {a:?}");
            let aaaa = resolve(&host, "ahostsv6", name)?;
            ensure!(aaaa.contains(&ipv6), "{name} AAAA: {aaaa:?}");
        }
        for address in [&ipv4, &ipv6] {
            let ptr = resolve(&host, "hosts", address)?;
            ensure!(ptr.contains(&full), "{address} PTR: {ptr:?}");
        }
        let unknown = resolve(&host, "ahostsv4", "nobody.home.warren.internal")?;
        ensure!(unknown.is_empty(), "a name of nobody resolves: {unknown}");
        let elsewhere = resolve(&host, "ahostsv4", "www.example.org")?;
        ensure!(elsewhere.contains("192.0.2.99"), "another name was not forwarded: {elsewhere:?}");

        laptop.run(&["down"])?;
        let now = fs::read_to_string(host.resolv_conf())?;
        ensure!(now == original, "after down:\n{now}");
        laptop.run(&["up"])?;
        laptop.wait_connected()?;

        laptop.kill()?;
        laptop.restart()?;
        laptop.wait_connected()?;
        warren_lab::wait_until("names after a crash", 10 * SECOND, || {
            Ok(resolve(&host, "ahostsv4", "desktop")?.contains(&ipv4))
        })?;
        laptop.stop()?;
        let now = fs::read_to_string(host.resolv_conf())?;
        ensure!(now == original, "after kill -9, restart and a stop:\n{now}");
        Ok(())
    });
}
