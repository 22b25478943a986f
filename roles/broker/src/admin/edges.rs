//! The API's operations on edges: what they open of their LANs.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;
use ipnet::Ipv4Net;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use warren_coord::{By, EdgeView, Refused, Right};
use warren_proto::{
    DeviceId, DeviceName, EdgeChange, EdgeChanged, EdgeSpec, ForwardEdit, ForwardId, ForwardSpec,
    GatewayEdit, GatewayId, GatewaySpec, MacAddr, NewForward, NewGateway, NewVirtualDevice,
    VirtualDeviceEdit, VirtualDeviceId, VirtualDeviceSpec,
};

use super::Time;
use super::devices::find_device;
use super::guard::Asker;
use super::operation::Operation;
use super::paged::{PageQuery, Query};
use super::routes::Content;
use crate::accounts::AccountHandle;
use crate::api::problem::{ApiResult, Failure};
use crate::broker::Broker;

type Shared = State<Arc<Broker>>;

/// A device that is an edge, was one, or for which something is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Edge {
    /// The device's id.
    pub id: DeviceId,
    /// Its name.
    pub name: DeviceName,
    /// Its name in DNS.
    pub dns_name: String,
    /// Its mesh address.
    pub ipv4: std::net::Ipv4Addr,
    /// Whether it is connected to the broker.
    pub online: bool,
    /// Whether it lets itself be an edge: if not, what is set for it waits.
    pub enabled: bool,
    /// Whether the account wants it to be one: its owner's word counts, unless he has left it to the account.
    pub asked: bool,
    /// How many port forwards are set.
    pub forwards: usize,
    /// How many virtual devices.
    pub virtual_devices: usize,
    /// How many gateways.
    pub gateways: usize,
    /// When its last scan of the LAN ended; `null`: there was none, or it is not known.
    pub scanned: Option<Time>,
    /// How many devices that scan found.
    pub found: u32,
    /// What doesn't work there, and what to do about it.
    pub problems: Vec<String>,
    /// The networks that it stands in.
    #[schemars(with = "Vec<String>")]
    pub networks: Vec<Ipv4Net>,
}

/// What to change of a device as an edge; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EdgeEdit {
    /// Whether the account wants it to be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<bool>,
}

/// Which device to wake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wake {
    /// Its card, as in `3c:52:82:01:02:03`.
    pub mac: MacAddr,
}

/// They.
pub(super) fn operations() -> Vec<Operation> {
    let own = vec![
        Operation::get(
            "/accounts/{account}/edges",
            "listEdges",
            "Edge devices, by name: those that open the LAN they stand in",
            list,
        )
        .needs(Right::ReadAccount)
        .lists::<Edge>(),
        Operation::get(
            "/accounts/{account}/edges/{device}",
            "getEdge",
            "A device as an edge, whether it is one or not",
            show,
        )
        .needs(Right::ReadAccount)
        .gives::<Edge>(),
        Operation::patch(
            "/accounts/{account}/edges/{device}",
            "changeEdge",
            "Wants a device to be an edge, or no more; its owner has the last word, on it",
            change,
        )
        .needs_device()
        .takes::<EdgeEdit>()
        .gives::<Edge>(),
        Operation::post(
            "/accounts/{account}/edges/{device}/wake",
            "wakeDevice",
            "Has an edge that is online call a card of its LAN (Wake-on-LAN)",
            wake,
        )
        .needs_device()
        .takes::<Wake>()
        .gives::<Edge>(),
    ];
    own.into_iter().chain(forwards()).chain(virtual_devices()).chain(gateways()).collect()
}

fn forwards() -> Vec<Operation> {
    const ALL: &str = "/accounts/{account}/edges/{device}/forwards";
    const ONE: &str = "/accounts/{account}/edges/{device}/forwards/{forward}";
    vec![
        Operation::get(ALL, "listForwards", "An edge's port forwards, by id", list_forwards)
            .needs(Right::ReadAccount)
            .lists::<ForwardSpec>(),
        Operation::post(
            ALL,
            "createForward",
            "Leads a port of the edge's mesh address to a device of its LAN",
            create_forward,
        )
        .needs_device()
        .takes::<NewForward>()
        .creates::<ForwardSpec>(),
        Operation::patch(ONE, "changeForward", "Changes a port forward", change_forward)
            .needs_device()
            .takes::<ForwardEdit>()
            .gives::<ForwardSpec>(),
        Operation::delete(ONE, "deleteForward", "Removes a port forward", remove_forward)
            .needs_device(),
    ]
}

fn virtual_devices() -> Vec<Operation> {
    const ALL: &str = "/accounts/{account}/edges/{device}/virtual-devices";
    const ONE: &str = "/accounts/{account}/edges/{device}/virtual-devices/{virtual_device}";
    vec![
        Operation::get(
            ALL,
            "listVirtualDevices",
            "An edge's virtual devices, by id",
            list_virtual_devices,
        )
        .needs(Right::ReadAccount)
        .lists::<VirtualDeviceSpec>(),
        Operation::post(
            ALL,
            "createVirtualDevice",
            "Gives a device of the LAN a mesh address and a name of its own",
            create_virtual_device,
        )
        .needs_device()
        .takes::<NewVirtualDevice>()
        .creates::<VirtualDeviceSpec>(),
        Operation::patch(
            ONE,
            "changeVirtualDevice",
            "Changes a virtual device; its address is for life",
            change_virtual_device,
        )
        .needs_device()
        .takes::<VirtualDeviceEdit>()
        .gives::<VirtualDeviceSpec>(),
        Operation::delete(
            ONE,
            "deleteVirtualDevice",
            "Removes a virtual device",
            remove_virtual_device,
        )
        .needs_device(),
    ]
}

fn gateways() -> Vec<Operation> {
    const ALL: &str = "/accounts/{account}/edges/{device}/gateways";
    const ONE: &str = "/accounts/{account}/edges/{device}/gateways/{gateway}";
    vec![
        Operation::get(ALL, "listGateways", "An edge's gateways, by id", list_gateways)
            .needs(Right::ReadAccount)
            .lists::<GatewaySpec>(),
        Operation::post(
            ALL,
            "createGateway",
            "Leads a part of the account's range to a network behind the edge, address by address",
            create_gateway,
        )
        .needs_device()
        .takes::<NewGateway>()
        .creates::<GatewaySpec>(),
        Operation::patch(ONE, "changeGateway", "Changes a gateway", change_gateway)
            .needs_device()
            .takes::<GatewayEdit>()
            .gives::<GatewaySpec>(),
        Operation::delete(ONE, "deleteGateway", "Removes a gateway", remove_gateway).needs_device(),
    ]
}

async fn list(
    State(broker): Shared,
    Path(account): Path<String>,
    Query(page): Query<PageQuery>,
) -> ApiResult<Response> {
    let account = broker.accounts.find(&account)?;
    let edges: Vec<Edge> = account.read(|account| account.edges().map(view).collect());
    page.of(edges, |edge| edge.name.to_string())
}

async fn show(
    State(broker): Shared,
    Path((account, device)): Path<(String, String)>,
) -> ApiResult<Json<Edge>> {
    let (account, device) = find(&broker, &account, &device)?;
    Ok(Json(account.read(|account| account.edge(device)).map(view)?))
}

async fn change(
    State(broker): Shared,
    Asker(by): Asker,
    Path((account, device)): Path<(String, String)>,
    Content(edit): Content<EdgeEdit>,
) -> ApiResult<Json<Edge>> {
    let (account, device) = find(&broker, &account, &device)?;
    if let Some(asked) = edit.asked {
        account.durable(by, move |account, _| account.prepare_edge_ask(device, asked)).await?;
    }
    Ok(Json(account.read(|account| account.edge(device)).map(view)?))
}

async fn wake(
    State(broker): Shared,
    Asker(by): Asker,
    Path((account, device)): Path<(String, String)>,
    Content(Wake { mac }): Content<Wake>,
) -> ApiResult<Json<Edge>> {
    let (account, device) = find(&broker, &account, &device)?;
    account.durable(by, move |account, ctx| account.prepare_wake(device, mac, ctx)).await?;
    Ok(Json(account.read(|account| account.edge(device)).map(view)?))
}

async fn list_forwards(
    State(broker): Shared,
    Path((account, device)): Path<(String, String)>,
    Query(page): Query<PageQuery>,
) -> ApiResult<Response> {
    page.of(spec(&broker, &account, &device)?.forwards, |it| it.id.to_string())
}

async fn create_forward(
    State(broker): Shared,
    Asker(by): Asker,
    Path((account, device)): Path<(String, String)>,
    Content(new): Content<NewForward>,
) -> ApiResult<(StatusCode, Json<ForwardSpec>)> {
    let edge = find(&broker, &account, &device)?;
    let created = forward(alter(edge, by, EdgeChange::AddForward(new)).await?)?;
    Ok((StatusCode::CREATED, Json(created)))
}

async fn change_forward(
    State(broker): Shared,
    Asker(by): Asker,
    Path((account, device, id)): Path<(String, String, String)>,
    Content(edit): Content<ForwardEdit>,
) -> ApiResult<Json<ForwardSpec>> {
    let edge = find(&broker, &account, &device)?;
    let id: ForwardId = id.parse().map_err(|_| no_such("port forward"))?;
    Ok(Json(forward(alter(edge, by, EdgeChange::SetForward { id, edit }).await?)?))
}

async fn remove_forward(
    State(broker): Shared,
    Asker(by): Asker,
    Path((account, device, id)): Path<(String, String, String)>,
) -> ApiResult<StatusCode> {
    let edge = find(&broker, &account, &device)?;
    let id: ForwardId = id.parse().map_err(|_| no_such("port forward"))?;
    alter(edge, by, EdgeChange::RemoveForward { id }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn list_virtual_devices(
    State(broker): Shared,
    Path((account, device)): Path<(String, String)>,
    Query(page): Query<PageQuery>,
) -> ApiResult<Response> {
    page.of(spec(&broker, &account, &device)?.virtual_devices, |it| it.id.to_string())
}

async fn create_virtual_device(
    State(broker): Shared,
    Asker(by): Asker,
    Path((account, device)): Path<(String, String)>,
    Content(new): Content<NewVirtualDevice>,
) -> ApiResult<(StatusCode, Json<VirtualDeviceSpec>)> {
    let edge = find(&broker, &account, &device)?;
    let created = virtual_device(alter(edge, by, EdgeChange::AddVirtualDevice(new)).await?)?;
    Ok((StatusCode::CREATED, Json(created)))
}

async fn change_virtual_device(
    State(broker): Shared,
    Asker(by): Asker,
    Path((account, device, id)): Path<(String, String, String)>,
    Content(edit): Content<VirtualDeviceEdit>,
) -> ApiResult<Json<VirtualDeviceSpec>> {
    let edge = find(&broker, &account, &device)?;
    let id: VirtualDeviceId = id.parse().map_err(|_| no_such("virtual device"))?;
    let changed = alter(edge, by, EdgeChange::SetVirtualDevice { id, edit }).await?;
    Ok(Json(virtual_device(changed)?))
}

async fn remove_virtual_device(
    State(broker): Shared,
    Asker(by): Asker,
    Path((account, device, id)): Path<(String, String, String)>,
) -> ApiResult<StatusCode> {
    let edge = find(&broker, &account, &device)?;
    let id: VirtualDeviceId = id.parse().map_err(|_| no_such("virtual device"))?;
    alter(edge, by, EdgeChange::RemoveVirtualDevice { id }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn list_gateways(
    State(broker): Shared,
    Path((account, device)): Path<(String, String)>,
    Query(page): Query<PageQuery>,
) -> ApiResult<Response> {
    page.of(spec(&broker, &account, &device)?.gateways, |it| it.id.to_string())
}

async fn create_gateway(
    State(broker): Shared,
    Asker(by): Asker,
    Path((account, device)): Path<(String, String)>,
    Content(new): Content<NewGateway>,
) -> ApiResult<(StatusCode, Json<GatewaySpec>)> {
    let edge = find(&broker, &account, &device)?;
    let created = gateway(alter(edge, by, EdgeChange::AddGateway(new)).await?)?;
    Ok((StatusCode::CREATED, Json(created)))
}

async fn change_gateway(
    State(broker): Shared,
    Asker(by): Asker,
    Path((account, device, id)): Path<(String, String, String)>,
    Content(edit): Content<GatewayEdit>,
) -> ApiResult<Json<GatewaySpec>> {
    let edge = find(&broker, &account, &device)?;
    let id: GatewayId = id.parse().map_err(|_| no_such("gateway"))?;
    Ok(Json(gateway(alter(edge, by, EdgeChange::SetGateway { id, edit }).await?)?))
}

async fn remove_gateway(
    State(broker): Shared,
    Asker(by): Asker,
    Path((account, device, id)): Path<(String, String, String)>,
) -> ApiResult<StatusCode> {
    let edge = find(&broker, &account, &device)?;
    let id: GatewayId = id.parse().map_err(|_| no_such("gateway"))?;
    alter(edge, by, EdgeChange::RemoveGateway { id }).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn find(broker: &Broker, account: &str, device: &str) -> ApiResult<(Arc<AccountHandle>, DeviceId)> {
    let account = broker.accounts.find(account)?;
    let device = find_device(&account, device)?;
    Ok((account, device))
}

fn spec(broker: &Broker, account: &str, device: &str) -> ApiResult<EdgeSpec> {
    let (account, device) = find(broker, account, device)?;
    Ok(account.read(|account| account.edge(device))?.spec)
}

async fn alter(
    (account, edge): (Arc<AccountHandle>, DeviceId),
    by: By,
    change: EdgeChange,
) -> ApiResult<EdgeChanged> {
    account.durable(by, move |account, ctx| account.prepare_edge_change(edge, change, ctx)).await
}

fn no_such(what: &'static str) -> Failure {
    Refused::NotFound(what).into()
}

fn forward(changed: EdgeChanged) -> ApiResult<ForwardSpec> {
    match changed {
        EdgeChanged::Forward(spec) => Ok(spec),
        EdgeChanged::VirtualDevice(_) | EdgeChanged::Gateway(_) | EdgeChanged::Removed => {
            Err(no_such("port forward"))
        }
    }
}

fn virtual_device(changed: EdgeChanged) -> ApiResult<VirtualDeviceSpec> {
    match changed {
        EdgeChanged::VirtualDevice(spec) => Ok(spec),
        EdgeChanged::Forward(_) | EdgeChanged::Gateway(_) | EdgeChanged::Removed => {
            Err(no_such("virtual device"))
        }
    }
}

fn gateway(changed: EdgeChanged) -> ApiResult<GatewaySpec> {
    match changed {
        EdgeChanged::Gateway(spec) => Ok(spec),
        EdgeChanged::Forward(_) | EdgeChanged::VirtualDevice(_) | EdgeChanged::Removed => {
            Err(no_such("gateway"))
        }
    }
}

fn view(view: EdgeView) -> Edge {
    let EdgeView { device, name, dns_name, ipv4, online, enabled, asked, spec, state } = view;
    let state = state.unwrap_or_default();
    Edge {
        id: device,
        name,
        dns_name,
        ipv4,
        online,
        enabled,
        asked,
        forwards: spec.forwards.len(),
        virtual_devices: spec.virtual_devices.len(),
        gateways: spec.gateways.len(),
        scanned: state.scanned_unix.map(Time),
        found: state.devices,
        problems: state.problems,
        networks: state.networks,
    }
}
