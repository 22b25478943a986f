//! WebRTC in a real Chromium that may use nothing but `warren relay`: over UDP, TCP and TLS, with the
//! credentials that the relay makes for other applications.

mod common;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::SECOND;
use rcgen::PublicKeyData as _;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use warren_browser::Browser;
use warren_lab::warren::Warren;
use warren_lab::{Host, Plug, Process, World, isolated, wait_for};

const METRICS: &str = "127.0.0.1:9100";
const MESSAGES: u64 = 200;

/// `warren relay` on a host of its own.
struct Relay {
    host: Host,
    process: Process,
    /// What the browser needs to know of its certificate.
    spki: String,
}

impl Relay {
    fn start(world: &World) -> Result<Self> {
        let host = world.host("relay")?;
        let link = world.internet().plug(&host, &Plug::dual())?;
        let (v4, v6) = (link.v4()?, link.v6()?);
        let folder = host.folder().to_owned();
        let spki = write_certificate(&folder, &[v4.into(), v6.into()])?;
        let text = |address: SocketAddr| address.to_string();
        let listen = [text((v4, 3478).into()), text((v6, 3478).into())].join(",");
        let tls = [text((v4, 443).into()), text((v6, 443).into())].join(",");
        let mut command = Warren::locate()?.on(&host);
        command.args(["--log", "debug", "relay", "--standalone", "--secret", "s3cret"]);
        command.args(["--listen", &listen, "--tls", &tls, "--metrics", METRICS]);
        command.args(["--public-ip", &v4.to_string(), "--public-ip", &v6.to_string()]);
        command.args(["--mint-token", "t0ken"]);
        command.args(["--cert".as_ref(), folder.join("cert.pem").as_os_str()]);
        command.args(["--key".as_ref(), folder.join("key.pem").as_os_str()]);
        let relay = Self { host, process: command.spawn()?, spki };
        wait_for("the relay", 20 * SECOND, || Ok(relay.ask("GET /readyz").ok()))?;
        Ok(relay)
    }

    fn ask(&self, request: &str) -> Result<String> {
        self.host.enter(|| {
            let mut stream = TcpStream::connect(METRICS)?;
            write!(stream, "{request} HTTP/1.0\r\nAuthorization: Bearer t0ken\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            ensure!(answer.contains(" 200 "), "{answer}");
            let (_, body) = answer.split_once("\r\n\r\n").context("an HTTP answer")?;
            Ok(body.to_owned())
        })?
    }

    /// Credentials, and where the relay is reached.
    fn credentials(&self) -> Result<(Value, Vec<String>)> {
        let made: Value = serde_json::from_str(&self.ask("POST /credentials?id=browser")?)?;
        let uris = made["uris"].as_array().context("uris")?.iter();
        let uris = uris.filter_map(Value::as_str).map(str::to_owned).collect();
        Ok((made, uris))
    }
}

/// Returns the hash of its key.
fn write_certificate(folder: &Path, addresses: &[IpAddr]) -> Result<String> {
    let key = rcgen::KeyPair::generate()?;
    let names: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    let certificate = rcgen::CertificateParams::new(names)?.self_signed(&key)?;
    std::fs::write(folder.join("cert.pem"), certificate.pem())?;
    std::fs::write(folder.join("key.pem"), key.serialize_pem())?;
    Ok(STANDARD.encode(digest(&SHA256, &key.subject_public_key_info())))
}

/// What comes of a data channel through each of `uris` alone.
fn talk(
    browser: &Browser,
    host: &Host,
    relay: &Relay,
    uris: &[String],
    trusts: bool,
) -> Result<Vec<Value>> {
    let (made, _) = relay.credentials()?;
    let server = |uri: &String| json!({ "urls": uri, "username": made["username"], "credential": made["password"] });
    let patience = if trusts { 30_000 } else { 3_000 };
    let mut job = browser
        .script(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/webrtc.mjs"))
        .arguments(json!({
            "servers": uris.iter().map(server).collect::<Vec<_>>(),
            "messages": MESSAGES, "bytes": 1000, "patience": patience,
        }))
        .within(120 * SECOND);
    if trusts {
        job = job.flag(format!("--ignore-certificate-errors-spki-list={}", relay.spki));
    }
    let line = job.command_line();
    let output = host.command(&line[0]).args(&line[1..]).output()?;
    let seen = job.result(&output)?;
    Ok(seen.as_array().context("an answer for each")?.clone())
}

#[test]
fn a_browser_that_may_only_be_relayed_talks_over_udp_tcp_and_tls() {
    let browser = Browser::find();
    isolated(|world| {
        let browser = browser?;
        let mut relay = Relay::start(world)?;
        let host = world.host("browser")?;
        world.internet().plug(&host, &Plug::dual())?;
        let (_, uris) = relay.credentials()?;
        ensure!(uris.len() == 6, "each transport in both families: {uris:?}");
        for (uri, seen) in uris.iter().zip(talk(&browser, &host, &relay, &uris, true)?) {
            let protocol = match uri {
                uri if uri.starts_with("turns:") => "tls",
                uri if uri.ends_with("transport=tcp") => "tcp",
                _ => "udp",
            };
            ensure!(seen["echoed"] == MESSAGES, "{uri}: {seen}");
            let wanted = json!({ "candidateType": "relay", "relayProtocol": protocol });
            ensure!(seen["candidates"] == json!([wanted, wanted]), "{uri}: {seen}");
        }
        let is_tls = |uri: &&String| uri.starts_with("turns:");
        let tls = uris.iter().find(is_tls).context("a turns URI")?;
        let seen = &talk(&browser, &host, &relay, std::slice::from_ref(tls), false)?[0];
        ensure!(seen["echoed"] == 0, "a certificate that nobody vouches for: {seen}");
        ensure!(seen["errors"][0]["errorCode"] == 701, "{seen}");
        ensure!(relay.process.exited()?.is_none(), "the relay has ended");
        Ok(())
    });
}
