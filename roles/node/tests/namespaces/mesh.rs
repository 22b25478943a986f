//! Two public nodes: joining, the first ping, and what the counters say of batches.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use warren_lab::{isolated, wait_for};
use warren_node::local::{DebugCounters, PathKind, PingRequest};

use crate::common::{Mesh, Node, runtime};

#[test]
fn two_public_nodes_join_and_ping_each_other() {
    isolated(|world| {
        let mesh = Mesh::new(world)?;
        let (a, b) = mesh.nodes()?;
        let report = runtime().block_on(async {
            let mut replies = a.client().ping(PingRequest::new("desktop")).await?;
            replies.next_ping().await?.context("an attempt is reported")
        })?;
        ensure!(report.path == PathKind::Direct, "{report:?}");
        ensure!(report.rtt_ms.is_some(), "{report:?}");
        println!("first ping: {report:?}");
        let peer = b.status()?.node;
        for address in [peer.ipv4.context("v4")?.to_string(), peer.ipv6.context("v6")?.to_string()]
        {
            mesh.laptop.run(&["ping", "-c", "2", "-W", "5", &address])?;
        }
        // People see at the broker how it went.
        let admin = mesh.broker.admin();
        let paths = wait_for("the path is reported", Duration::from_secs(10), || {
            let paths = runtime().block_on(admin.device_paths("home", "laptop"))?;
            Ok(paths.iter().any(|path| path.path == PathKind::Direct).then_some(paths))
        })?;
        ensure!(paths.len() == 1 && paths[0].peer.as_str() == "desktop", "{paths:?}");
        ensure!(paths[0].endpoint.is_some() && paths[0].rtt_ms.is_some(), "{paths:?}");
        a.running.stop()?;
        let links = mesh.laptop.run(&["ip", "link"])?;
        ensure!(!links.contains("warren"), "the interface is gone: {links}");
        b.running.stop()?;
        mesh.broker.running.stop()
    });
}

fn counters(node: &Node) -> Result<DebugCounters> {
    Ok(runtime().block_on(node.client().counters())?)
}

#[test]
fn bulk_traffic_travels_in_batches_both_ways_and_arrives_whole() {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    const BYTES: usize = 16 << 20;
    isolated(|world| {
        let mesh = Mesh::new(world)?;
        let (a, b) = mesh.nodes()?;
        let address = b.status()?.node.ipv4.context("v4")?;
        let listener = mesh.desktop.enter(|| TcpListener::bind((address, 5_000)))??;
        let receiver = std::thread::spawn(move || -> std::io::Result<(usize, u64)> {
            let (mut stream, _) = listener.accept()?;
            let (mut buffer, mut len, mut sum) = (vec![0; 1 << 16], 0, 0_u64);
            loop {
                let read = stream.read(&mut buffer)?;
                if read == 0 {
                    return Ok((len, sum));
                }
                len += read;
                sum = buffer[..read]
                    .iter()
                    .fold(sum, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
            }
        });
        let mut stream = mesh.laptop.enter(|| TcpStream::connect((address, 5_000)))??;
        let data: Vec<u8> =
            (0..BYTES as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        stream.write_all(&data)?;
        drop(stream);
        let (len, sum) = receiver.join().expect("it doesn't panic")?;
        let wanted = data
            .iter()
            .fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
        ensure!((len, sum) == (BYTES, wanted), "{len} bytes arrived, or others");
        let (sent, received) = (counters(&a)?, counters(&b)?);
        let per_send = sent.udp_send_segments as f64 / sent.udp_sends as f64;
        let per_write = received.tun_write_segments as f64 / received.tun_writes as f64;
        println!("segments: {per_send:.1} per UDP send, {per_write:.1} per TUN write");
        ensure!(per_send > 8.0, "sending in batches has died: {sent:?}");
        ensure!(per_write > 8.0, "writing in batches has died: {received:?}");
        Ok(())
    });
}
