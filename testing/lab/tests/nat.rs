//! Every NAT of the lab behaves as RFC 4787 names it, discovered as RFC 5780 does.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use warren_lab::{Host, NatKind, NatSpec, Plug, World, isolated};

/// Public addresses and ports that tell a client what they see, and answer from where it asks.
struct Reflector {
    addresses: Vec<SocketAddr>,
}

/// Where the answer is to come from: RFC 5780's CHANGE-REQUEST.
#[derive(Clone, Copy)]
enum Answer {
    Same = 0,
    OtherPort = 1,
    OtherAddressAndPort = 3,
}

impl Reflector {
    /// Two addresses times two ports; socket `i` answers `Answer` `a` from socket `i ^ a`.
    fn start(world: &World) -> Result<Self> {
        let host = world.host("reflector")?;
        let first = world.internet().plug(&host, &Plug::ipv4())?.v4()?;
        let second = world.internet().plug(&host, &Plug::ipv4())?.v4()?;
        let addresses: Vec<SocketAddr> =
            [(first, 3478), (first, 3479), (second, 3478), (second, 3479)]
                .map(SocketAddr::from)
                .into();
        let sockets = host.enter(|| {
            addresses.iter().map(UdpSocket::bind).collect::<std::io::Result<Vec<_>>>()
        })??;
        for socket in 0..sockets.len() {
            let sockets =
                sockets.iter().map(UdpSocket::try_clone).collect::<std::io::Result<Vec<_>>>()?;
            std::thread::spawn(move || {
                let mut request = [0; 64];
                while let Ok((_, from)) = sockets[socket].recv_from(&mut request) {
                    let answer = usize::from(request[0]);
                    let _ = sockets[socket ^ answer].send_to(from.to_string().as_bytes(), from);
                }
            });
        }
        Ok(Self { addresses })
    }
}

struct Client(UdpSocket);

impl Client {
    fn on(host: &Host) -> Result<Self> {
        let socket = host.enter(|| UdpSocket::bind("0.0.0.0:0"))??;
        socket.set_read_timeout(Some(Duration::from_millis(150)))?;
        Ok(Self(socket))
    }

    /// What the reflector saw; `None` when two requests got no answer.
    fn ask(&self, to: SocketAddr, answer: Answer) -> Result<Option<SocketAddr>> {
        for _ in 0..2 {
            self.0.send_to(&[answer as u8], to)?;
            if let Some(text) = self.receive()? {
                return Ok(Some(text.parse()?));
            }
        }
        Ok(None)
    }

    fn receive(&self) -> Result<Option<String>> {
        let mut reply = [0; 64];
        match self.0.recv(&mut reply) {
            Ok(length) => Ok(Some(String::from_utf8(reply[..length].to_vec())?)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// RFC 5780 §4.3 and §4.4, in the words of RFC 4787.
fn classify(host: &Host, reflector: &Reflector) -> Result<&'static str> {
    let [first, other_port, other_address, _] = reflector.addresses[..] else { unreachable!() };
    let client = Client::on(host)?;
    let Some(mapped) = client.ask(first, Answer::Same)? else { return Ok("udp-blocked") };
    // Filtering first: the mapping tests would open what it asks about.
    let filtering = if client.ask(first, Answer::OtherAddressAndPort)?.is_some() {
        "eif"
    } else if client.ask(first, Answer::OtherPort)?.is_some() {
        "adf"
    } else {
        "apdf"
    };
    let elsewhere =
        client.ask(other_address, Answer::Same)?.context("the other address is mute")?;
    let same_address = client.ask(other_port, Answer::Same)?.context("the other port is mute")?;
    let public = mapped.ip() == client.0.local_addr()?.ip();
    Ok(match (mapped == elsewhere, mapped == same_address, filtering) {
        (true, true, "eif") if public => "public",
        (true, true, "eif") => "eim-eif",
        (true, true, "adf") => "eim-adf",
        (true, true, _) => "eim-apdf",
        (false, true, _) => "adm",
        (_, false, "apdf") => "apdm",
        (_, false, _) => "apdm with an open filter",
    })
}

#[test]
fn each_kind_of_nat_is_what_it_is_called() {
    isolated(|world| {
        let reflector = Reflector::start(world)?;
        for kind in NatKind::ALL {
            let router =
                world.router(&format!("{kind}-router"), world.internet(), NatSpec::new(kind))?;
            let host = world.host(kind.name())?;
            router.lan().plug(&host, &Plug::ipv4())?;
            let found = classify(&host, &reflector)?;
            ensure!(found == kind.name(), "{kind} was found to be {found}");
        }
        Ok(())
    });
}

#[test]
fn two_nats_in_a_row_filter_by_port_and_keep_the_mapping() {
    isolated(|world| {
        let reflector = Reflector::start(world)?;
        let carrier =
            world.router("carrier", world.internet(), NatSpec::carrier(NatKind::EimApdf))?;
        let home = world.router("home", carrier.lan(), NatSpec::new(NatKind::EimApdf))?;
        let host = world.host("phone")?;
        home.lan().plug(&host, &Plug::ipv4())?;
        let found = classify(&host, &reflector)?;
        ensure!(found == "eim-apdf", "found to be {found}");
        Ok(())
    });
}

#[test]
fn two_hosts_with_one_port_behind_one_open_nat_both_get_their_datagrams() {
    isolated(|world| {
        let reflector = Reflector::start(world)?;
        let router = world.router("router", world.internet(), NatSpec::new(NatKind::EimEif))?;
        let mut found = Vec::new();
        let mut clients = Vec::new();
        for name in ["one", "two"] {
            let host = world.host(name)?;
            router.lan().plug(&host, &Plug::ipv4())?;
            let client = Client(host.enter(|| UdpSocket::bind("0.0.0.0:51820"))??);
            client.0.set_read_timeout(Some(Duration::from_millis(150)))?;
            found.push(client.ask(reflector.addresses[0], Answer::Same)?.context("no answer")?);
            clients.push(client);
        }
        ensure!(found[0] != found[1], "both were mapped to {}", found[0]);
        let stranger = world.host("stranger")?;
        world.internet().plug(&stranger, &Plug::ipv4())?;
        let socket = stranger.enter(|| UdpSocket::bind("0.0.0.0:0"))??;
        for (client, mapped) in clients.iter().zip(found) {
            let greeting = format!("hello {mapped}");
            socket.send_to(greeting.as_bytes(), mapped)?;
            let heard = client.receive()?;
            ensure!(heard.as_ref() == Some(&greeting), "{mapped} heard {heard:?}");
        }
        Ok(())
    });
}

#[test]
fn a_hairpinning_nat_joins_two_of_its_hosts_and_another_does_not() {
    isolated(|world| {
        let reflector = Reflector::start(world)?;
        for (name, hairpins) in [("turns", true), ("swallows", false)] {
            let spec = NatSpec::new(NatKind::EimApdf);
            let spec = if hairpins { spec.hairpinning() } else { spec };
            let router = world.router(name, world.internet(), spec)?;
            let mut clients = Vec::new();
            for side in ["left", "right"] {
                let host = world.host(&format!("{name}-{side}"))?;
                router.lan().plug(&host, &Plug::ipv4())?;
                let client = Client::on(&host)?;
                let mapped = client.ask(reflector.addresses[0], Answer::Same)?.context("mute")?;
                clients.push((client, mapped));
            }
            let [(left, left_mapped), (right, right_mapped)] = &clients[..] else { unreachable!() };
            left.0.send_to(b"hello", right_mapped)?;
            let mut buffer = [0; 64];
            let heard = right.0.recv_from(&mut buffer).ok().map(|(_, from)| from);
            // RFC 4787 REQ-9: the receiver sees the sender's outside address.
            ensure!(heard == hairpins.then_some(*left_mapped), "{name}: heard from {heard:?}");
            if hairpins {
                right.0.send_to(b"you too", left_mapped)?;
                ensure!(left.receive()?.as_deref() == Some("you too"), "the answer got lost");
            }
        }
        Ok(())
    });
}

#[test]
fn an_ipv6_firewall_lets_in_only_what_was_asked_for() {
    isolated(|world| {
        let router =
            world.router("router", world.internet(), NatSpec::new(NatKind::EimApdf).with_ipv6())?;
        let (inside, outside) = (world.host("inside")?, world.host("outside")?);
        let inner = router.lan().plug(&inside, &Plug::dual())?;
        let outer = world.internet().plug(&outside, &Plug::ipv6())?;
        let bind = |host: &Host| -> Result<UdpSocket> {
            let socket = host.enter(|| UdpSocket::bind("[::]:7000"))??;
            socket.set_read_timeout(Some(Duration::from_millis(150)))?;
            Ok(socket)
        };
        let (left, right) = (bind(&inside)?, bind(&outside)?);
        let mut buffer = [0; 64];
        right.send_to(b"unasked", (inner.v6()?, 7000))?;
        ensure!(left.recv_from(&mut buffer).is_err(), "an unasked datagram came in");
        left.send_to(b"asked", (outer.v6()?, 7000))?;
        let (_, from) = right.recv_from(&mut buffer)?;
        ensure!(from.ip() == inner.v6()?, "IPv6 was translated: {from}");
        right.send_to(b"answer", from)?;
        let (length, _) = left.recv_from(&mut buffer)?;
        ensure!(&buffer[..length] == b"answer", "another datagram came in");
        Ok(())
    });
}
