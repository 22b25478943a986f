//! An edge that opens nothing, with a LAN that says bad things of itself.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use warren_edge::{Edge, EdgeConfig, EdgeReport, Opened, Problem, Use};
use warren_edge_web::{Answer, Desk, Pages, Place, Refusal, Sources, Why};
use warren_proto::{
    DeviceId, DeviceName, EdgeChange, EdgeChanged, EdgeDuty, EdgeSpec, Forward, ForwardId,
    ForwardSpec, Peer, PublicKey, VirtualDeviceId, VirtualDeviceSpec,
};

pub(crate) const LAPTOP: DeviceId = DeviceId(7);
/// What devices call themselves.
pub(crate) const HOSTILE: &str = "<img src=x onerror=\"window.owned=1\">";

/// The account, in memory: it knows forwards and virtual devices.
#[derive(Default)]
pub(crate) struct Account {
    pub(crate) spec: Mutex<EdgeSpec>,
    pub(crate) asked_from: Mutex<Vec<DeviceId>>,
    pub(crate) place: Mutex<Option<watch::Sender<Place>>>,
}

impl Account {
    fn apply(&self, change: EdgeChange) -> Result<EdgeChanged, Refusal> {
        let mut spec = self.spec.lock().unwrap();
        let changed = match change {
            EdgeChange::AddForward(new) => {
                if spec.forwards.iter().any(|it| it.port == new.port) {
                    let text = format!("port {} leads elsewhere already", new.port);
                    return Err(Refusal { why: Why::Invalid, text });
                }
                let made = ForwardSpec {
                    id: ForwardId(100 + spec.forwards.len() as u64),
                    name: new.name.unwrap_or_else(|| format!("port {}", new.port)),
                    enabled: new.enabled,
                    protocol: new.protocol,
                    port: new.port,
                    last_port: new.last_port.unwrap_or(new.port),
                    target: new.target,
                    target_port: new.target_port.unwrap_or(new.port),
                    source: new.source,
                    untested: new.untested,
                    allow: new.allow,
                    schedule: new.schedule,
                    note: new.note,
                };
                spec.forwards.push(made.clone());
                EdgeChanged::Forward(made)
            }
            EdgeChange::SetForward { id, edit } => {
                let found = spec.forwards.iter_mut().find(|it| it.id == id);
                let found = found.ok_or_else(|| Refusal {
                    why: Why::NotFound,
                    text: "no such port forward".to_owned(),
                })?;
                found.enabled = edit.enabled.unwrap_or(found.enabled);
                found.name = edit.name.unwrap_or_else(|| found.name.clone());
                found.target = edit.target.unwrap_or(found.target);
                EdgeChanged::Forward(found.clone())
            }
            EdgeChange::RemoveForward { id } => {
                spec.forwards.retain(|it| it.id != id);
                EdgeChanged::Removed
            }
            EdgeChange::AddVirtualDevice(new) => {
                let made = VirtualDeviceSpec {
                    id: VirtualDeviceId(200 + spec.virtual_devices.len() as u64),
                    name: new.name,
                    ipv4: Ipv4Addr::new(100, 80, 2, 1),
                    enabled: new.enabled,
                    target: new.target,
                    ports: new.ports,
                    source: new.source,
                    untested: new.untested,
                    note: new.note,
                };
                spec.virtual_devices.push(made.clone());
                EdgeChanged::VirtualDevice(made)
            }
            EdgeChange::SetVirtualDevice { .. }
            | EdgeChange::RemoveVirtualDevice { .. }
            | EdgeChange::AddGateway(_)
            | EdgeChange::SetGateway { .. }
            | EdgeChange::RemoveGateway { .. } => EdgeChanged::Removed,
        };
        let duty = EdgeDuty {
            forwards: spec.forwards.iter().filter(|it| it.enabled).map(Forward::from).collect(),
            ..EdgeDuty::default()
        };
        if let Some(place) = &*self.place.lock().unwrap() {
            place.send_modify(|place| {
                let managers = std::mem::take(&mut place.duty.managers);
                place.duty = EdgeDuty { managers, ..duty };
            });
        }
        Ok(changed)
    }
}

impl Desk for Account {
    fn spec(&self) -> Answer<'_, EdgeSpec> {
        Box::pin(async { Ok(self.spec.lock().unwrap().clone()) })
    }

    fn change(&self, change: EdgeChange, from: DeviceId) -> Answer<'_, EdgeChanged> {
        Box::pin(async move {
            self.asked_from.lock().unwrap().push(from);
            self.apply(change)
        })
    }
}

/// The pages, at a port of this machine's loopback, which stands for the mesh.
pub(crate) struct World {
    pub(crate) account: Arc<Account>,
    pub(crate) place: watch::Sender<Place>,
    pub(crate) report: watch::Sender<EdgeReport>,
    pub(crate) address: std::net::SocketAddr,
    _pages: Pages,
    _edge: Edge,
    _folder: tempfile::TempDir,
}

fn peer(ip: Ipv4Addr) -> Peer {
    Peer {
        id: LAPTOP,
        name: DeviceName::from_free_text("laptop"),
        key: PublicKey([7; 32]),
        ipv4: ip,
        ipv6: "fd00::7".parse().unwrap(),
        endpoints: Vec::new(),
        nat: Default::default(),
        online: true,
        capabilities: Vec::new(),
        relays: Vec::new(),
        edge: None,
        signature: None,
    }
}

fn inventory() -> serde_json::Value {
    // What was seen lately is bound to its card.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let seen = json!({ "present": true, "first_seen_unix": 1_790_000_000, "last_seen_unix": now });
    let device = |ip: &str, more: serde_json::Value| {
        let mut device = seen.clone();
        let fields = device.as_object_mut().unwrap();
        fields.insert("ip".to_owned(), ip.into());
        fields.extend(more.as_object().unwrap().clone());
        device
    };
    json!({
        "scanned_unix": 1_795_000_000,
        "changes": [{ "change": "new", "ip": "192.168.1.66" }],
        "devices": {
            "192.168.1.9": device("192.168.1.9", json!({
                "mac": "3c:52:82:01:02:03", "kind": "camera", "rtt_us": 800,
                "names": { "mdns": "Front-Door.local" },
                "services": { "tcp:80": { "banner": "lighttpd/1.4", "title": "IP camera" }, "tcp:554": {} } })),
            "192.168.1.20": device("192.168.1.20", json!({ "kind": "printer", "present": false,
                "names": { "net-bios": "OFFICE" }, "services": { "tcp:9100": {} } })),
            "192.168.1.66": device("192.168.1.66", json!({
                "mac": "02:52:82:01:02:03", "randomised": true,
                "names": { "mdns": HOSTILE, "ssdp": "</script><script>window.owned=1</script>" },
                "ipv6": ["fd00:1::66"],
                "services": { "tcp:80": { "title": HOSTILE, "banner": "\" onmouseover=\"window.owned=1" } } })),
            "fe80::30": device("fe80::30", json!({ "mac": "3c:52:82:01:02:30",
                "ipv6": ["fd00:1::30", "fe80::30"], "link": "192.168.1.0/24" })),
        },
    })
}

impl World {
    /// `manages`: whether this machine's user may change the edge. `known`: whether a scan was made.
    pub(crate) fn new(manages: bool, known: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        if known {
            let file = folder.path().join("edge-devices.json");
            std::fs::write(file, inventory().to_string()).unwrap();
        }
        let config = EdgeConfig {
            mesh_interface: "warren-none".to_owned(),
            mesh_ipv4: Ipv4Addr::LOCALHOST,
            state: folder.path().to_owned(),
            diverter: None,
            userspace: false,
            cap: warren_proto::LanCap::only(["192.168.1.0/24".parse().unwrap()]),
        };
        let (_, nothing) = watch::channel(None);
        let edge = Edge::start(config, nothing);
        let managers = if manages { vec![LAPTOP] } else { Vec::new() };
        let place = Place {
            name: DeviceName::from_free_text("site-7"),
            domain: "home.warren.internal".to_owned(),
            ipv4: Ipv4Addr::LOCALHOST,
            ipv6: "::1".parse().unwrap(),
            duty: EdgeDuty { managers, ..EdgeDuty::default() },
            peers: vec![peer(Ipv4Addr::LOCALHOST)],
            is_connected: true,
        };
        let (place, places) = watch::channel(place);
        let (report, reports) = watch::channel(EdgeReport::default());
        let account = Arc::new(Account::default());
        *account.place.lock().unwrap() = Some(place.clone());
        let desk: Arc<dyn Desk> = account.clone();
        let sources = Sources { place: places, tools: edge.tools(), report: reports, desk };
        let (pages, address) = Pages::start_at(sources, "127.0.0.1:0".parse().unwrap()).unwrap();
        Self { account, place, report, address, _pages: pages, _edge: edge, _folder: folder }
    }

    /// The engine has opened the forward, and has a complaint.
    pub(crate) fn report(&self, id: ForwardId) {
        self.report.send_modify(|report| {
            let opened = Opened::Forward(id);
            let used = Use { packets: 1200, bytes: 3_400_000, last_unix: Some(1_795_000_000) };
            report.applied += 1;
            report.open.insert(opened, Ipv4Addr::new(192, 168, 1, 9));
            report.uses.insert(opened, used);
            report.problems.insert(Problem::HostDrops {
                chain: "ip filter FORWARD".to_owned(),
                remedy: "iptables -I FORWARD -i warren0 -j ACCEPT".to_owned(),
            });
        });
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A request as it is written, and the status and body of the answer.
    pub(crate) async fn raw(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).unwrap_or_default().parse().unwrap_or_default();
        (status, answer)
    }

    /// The same, with what a program says. `more`: headers, each with its line's end.
    pub(crate) async fn ask(&self, what: &str, more: &str, body: &str) -> (u16, String) {
        let (host, length) = (self.address, body.len());
        let request = format!(
            "{what} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n\
             {more}\r\n{body}"
        );
        self.raw(&request).await
    }
}
