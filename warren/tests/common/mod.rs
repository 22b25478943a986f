//! The real broker as a process, and devices that know of it what a node knows.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test uses some of it")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use http::Method;
use warren_control::{BrokerUrl, ControlError, Http, Pins, REQUEST_TIMEOUT, Tls};
use warren_coord::prove;
use warren_proto::{
    BrokerIdentity, Challenge, DeviceId, JoinLink, Netmap, PROTOCOL, PublicKey, Register,
    Registered, Relay,
};

const WARREN: &str = env!("CARGO_BIN_EXE_warren");

/// A broker that ends with the test.
pub struct Broker(Child);

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn serve(data: &Path, more: &[&str]) -> Broker {
    let mut child = Command::new(WARREN)
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(data)
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let up = output.lines().map_while(Result::ok).any(|line| line.contains("join-keys create"));
    assert!(up, "the broker ended: {:?}", child.wait());
    Broker(child)
}

pub fn admin(data: &Path, args: &[&str]) -> String {
    let output =
        Command::new(WARREN).args(["admin", "--data"]).arg(data).args(args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A device that has joined; it has no tunnel, only what it knows.
pub struct Device {
    pub id: DeviceId,
    pub http: Http,
    pub link: JoinLink,
}

impl Device {
    pub async fn join(data: &Path, name: &str) -> Self {
        Self::try_join(data, name).await.unwrap()
    }

    /// Joins with a fresh link, if the broker takes it.
    pub async fn try_join(data: &Path, name: &str) -> Result<Self, ControlError> {
        let link: JoinLink = admin(data, &["join-keys", "create"]).parse().unwrap();
        let url = BrokerUrl::parse(&link.url).unwrap();
        let tls = || Tls::new(&Pins(link.pin.into_iter().collect())).unwrap();
        let http = Http::connect(&url, &tls(), &[], None).await?;
        let get = http.json(Method::GET, "/v1/node/challenge", None::<&()>, REQUEST_TIMEOUT);
        let challenge: Challenge = get.await?.body;
        let private: [u8; 32] = rand::random();
        let secret = x25519_dalek::StaticSecret::from(private);
        let register = Register {
            protocol: PROTOCOL,
            join_key: link.key.clone(),
            key: PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes()),
            proof: prove(&private, &BrokerIdentity::of(&link), &challenge, &link.key),
            challenge: challenge.challenge,
            name: name.to_owned(),
            os: String::new(),
            software: String::new(),
        };
        let path = "/v1/node/register";
        let post = http.json(Method::POST, path, Some(&register), REQUEST_TIMEOUT);
        let registered: Registered = post.await?.body;
        let http = Http::connect(&url, &tls(), &[], Some(&registered.token)).await?;
        Ok(Self { id: registered.device, http, link })
    }

    pub async fn map(&self) -> Netmap {
        let get = self.http.json(Method::GET, "/v1/node/netmap", None::<&()>, REQUEST_TIMEOUT);
        get.await.unwrap().body
    }

    pub async fn relays(&self) -> Vec<Relay> {
        self.map().await.relays
    }
}
