//! An edge elsewhere in the account, asked by its own API through the tunnel: `warren edge --on NAME`.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use warren_node::local::{Client, EdgeFound, EdgeReply, EdgeRequest, EdgeStatus, EdgeWork};
use warren_proto::{EdgeChange, EdgeChanged, EdgeSpec, EdgeState};
use warren_scan::{Inventory, Rescan};

use super::edge_lan::card;

/// How long an answer may take: a path may have to be found first.
const PATIENCE: Duration = Duration::from_secs(30);
/// The largest answer.
const LONGEST: usize = 64 * 1024 * 1024;

/// An edge that is asked: this device, or another one.
pub(super) enum Asked {
    Here(Client),
    There(Remote),
}

impl Asked {
    /// This device, or the one of that name.
    pub(super) async fn find(client: Client, on: Option<&str>) -> anyhow::Result<Self> {
        let Some(name) = on else { return Ok(Self::Here(client)) };
        let status = client.status().await?;
        let peers = status.peers.into_iter();
        let found =
            peers.filter(|it| it.name == name || it.dns_name == name).map(|it| it.ipv4).next();
        let Some(ipv4) = found else {
            bail!("this device sees no other one that is called '{name}'; see `warren status`")
        };
        Ok(Self::There(Remote { name: name.to_owned(), ipv4 }))
    }

    /// Its name, of another one.
    pub(super) fn elsewhere(&self) -> Option<&str> {
        match self {
            Self::Here(_) => None,
            Self::There(remote) => Some(&remote.name),
        }
    }

    pub(super) async fn edge(&self, request: EdgeRequest) -> anyhow::Result<EdgeReply> {
        match self {
            Self::Here(client) => Ok(client.edge(request).await?),
            Self::There(remote) => remote.edge(request).await,
        }
    }
}

/// Another device of the account.
pub(super) struct Remote {
    name: String,
    ipv4: Ipv4Addr,
}

impl Remote {
    async fn edge(&self, request: EdgeRequest) -> anyhow::Result<EdgeReply> {
        Ok(match request {
            EdgeRequest::Enable(_) | EdgeRequest::Disable => {
                bail!("whether a device is an edge is said on the device itself")
            }
            EdgeRequest::Status => EdgeReply::Status(self.status().await?),
            EdgeRequest::Spec => EdgeReply::Spec(EdgeSpec {
                forwards: self.get("/forwards").await?,
                virtual_devices: self.get("/virtual-devices").await?,
                gateways: self.get("/gateways").await?,
            }),
            EdgeRequest::Change(change) => EdgeReply::Changed(self.change(change).await?),
            EdgeRequest::Work(work) => EdgeReply::Found(self.work(work).await?),
        })
    }

    async fn status(&self) -> anyhow::Result<EdgeStatus> {
        let edge: Value = self.get("/edge").await?;
        let count = |name: &str| edge[name].as_u64().and_then(|it| it.try_into().ok()).unwrap_or(0);
        Ok(EdgeStatus {
            // Whoever answers is one, by whose word ever.
            enabled: true,
            when_asked: false,
            asked: false,
            only: serde_json::from_value(edge["only"].clone()).unwrap_or_default(),
            accepted: true,
            broker_connected: edge["broker_connected"].as_bool().unwrap_or(false),
            forwards: count("forwards"),
            virtual_devices: count("virtual_devices"),
            gateways: count("gateways"),
            state: EdgeState {
                scanned_unix: edge["scanned_unix"].as_u64(),
                devices: count("devices").try_into().unwrap_or(u32::MAX),
                problems: serde_json::from_value(edge["problems"].clone()).unwrap_or_default(),
                networks: Vec::new(),
            },
        })
    }

    async fn change(&self, change: EdgeChange) -> anyhow::Result<EdgeChanged> {
        use EdgeChanged::{Forward, Gateway, Removed, VirtualDevice};
        let (post, patch, delete) = (Method::POST, Method::PATCH, Method::DELETE);
        let (forwards, devices, gateways) = ("/forwards", "/virtual-devices", "/gateways");
        Ok(match change {
            EdgeChange::AddForward(new) => Forward(self.tell(post, forwards, &new).await?),
            EdgeChange::SetForward { id, edit } => {
                Forward(self.tell(patch, &format!("{forwards}/{id}"), &edit).await?)
            }
            EdgeChange::AddVirtualDevice(new) => {
                VirtualDevice(self.tell(post, devices, &new).await?)
            }
            EdgeChange::SetVirtualDevice { id, edit } => {
                VirtualDevice(self.tell(patch, &format!("{devices}/{id}"), &edit).await?)
            }
            EdgeChange::AddGateway(new) => Gateway(self.tell(post, gateways, &new).await?),
            EdgeChange::SetGateway { id, edit } => {
                Gateway(self.tell(patch, &format!("{gateways}/{id}"), &edit).await?)
            }
            EdgeChange::RemoveForward { id } => {
                self.send(delete, &format!("{forwards}/{id}"), None).await?;
                Removed
            }
            EdgeChange::RemoveVirtualDevice { id } => {
                self.send(delete, &format!("{devices}/{id}"), None).await?;
                Removed
            }
            EdgeChange::RemoveGateway { id } => {
                self.send(delete, &format!("{gateways}/{id}"), None).await?;
                Removed
            }
        })
    }

    async fn work(&self, work: EdgeWork) -> anyhow::Result<EdgeFound> {
        Ok(match work {
            EdgeWork::Scan(plan) => {
                EdgeFound::Scanning(self.tell(Method::POST, "/scan", &plan).await?)
            }
            // A plan and an interval, as the API takes them.
            EdgeWork::ScanAndRepeat(Rescan { every_secs, plan }) => {
                let mut wanted = serde_json::to_value(plan)?;
                wanted["every_secs"] = every_secs.into();
                EdgeFound::Scanning(self.tell(Method::POST, "/scan", &wanted).await?)
            }
            EdgeWork::CancelScan => {
                self.send(Method::DELETE, "/scan", None).await?;
                EdgeFound::Scanning(self.get("/scan").await?)
            }
            EdgeWork::Open => EdgeFound::Open(self.get("/open").await?),
            EdgeWork::Scanning => EdgeFound::Scanning(self.get("/scan").await?),
            EdgeWork::Rescan => EdgeFound::Rescan(self.get("/scan/schedule").await?),
            EdgeWork::EndRescan => {
                self.send(Method::DELETE, "/scan/schedule", None).await?;
                EdgeFound::Rescan(None)
            }
            EdgeWork::Card(ip) => EdgeFound::Card(self.get(&format!("/cards/{ip}")).await?),
            EdgeWork::Devices(_) => {
                EdgeFound::Devices { part: self.get("/devices").await?, more: false }
            }
            EdgeWork::Wake(who) => {
                let inventory: Inventory = self.get("/devices").await?;
                let mac = card(&inventory, &who).map_err(anyhow::Error::msg)?;
                let path = format!("/devices/{mac}/wake");
                EdgeFound::Woken(self.tell(Method::POST, &path, &json!({})).await?)
            }
            EdgeWork::Check(id) => {
                let path = format!("/forwards/{id}/check");
                EdgeFound::Looked(self.tell(Method::POST, &path, &json!({})).await?)
            }
        })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.read(&self.send(Method::GET, path, None).await?)
    }

    async fn tell<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        self.read(&self.send(method, path, Some(serde_json::to_vec(body)?)).await?)
    }

    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> anyhow::Result<T> {
        serde_json::from_slice(body)
            .with_context(|| format!("the answer of {} makes no sense; is it newer?", self.name))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> anyhow::Result<Bytes> {
        let name = &self.name;
        let silent = || {
            format!(
                "{name} doesn't answer at {} port 80: it is no edge, out of reach (`warren ping \
                 {name}`), or the policy doesn't let this device reach it",
                self.ipv4
            )
        };
        timeout(PATIENCE, self.ask(method, path, body))
            .await
            .with_context(silent)?
            .with_context(silent)?
    }

    /// The outer error is one of the way there, the inner one the edge's.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> anyhow::Result<anyhow::Result<Bytes>> {
        let stream = TcpStream::connect((self.ipv4, 80)).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // Its end shows in the answer.
            let _ = connection.await;
        });
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header(HOST, self.ipv4.to_string())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
        Ok(self.judge(status, body))
    }

    fn judge(&self, status: hyper::StatusCode, body: Bytes) -> anyhow::Result<Bytes> {
        if status.is_success() {
            return Ok(body);
        }
        let problem: Option<Value> = serde_json::from_slice(&body).ok();
        let title = problem.as_ref().and_then(|problem| problem["title"].as_str());
        ensure!(title.is_none(), "{}: {}", self.name, title.unwrap_or_default());
        bail!("{} answers {status} at its port 80: is it an edge of this version?", self.name)
    }
}
