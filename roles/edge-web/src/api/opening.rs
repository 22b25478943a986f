//! What is open, by the API: forwards, virtual devices, gateways.

use axum::Json;
use axum::extract::{Path, State};
use http::{Method, StatusCode};
use warren_proto::{
    EdgeChange, EdgeChanged, ForwardEdit, ForwardSpec, GatewayEdit, GatewaySpec, NewForward,
    NewGateway, NewVirtualDevice, VirtualDeviceEdit, VirtualDeviceSpec,
};

use super::{Content, Failure, Given, Operation};
use crate::desk::{Refusal, Why};
use crate::surround::{Shared, Visitor};

pub(super) fn operations() -> Vec<Operation> {
    let (get, post) = (Method::GET, Method::POST);
    let (patch, delete) = (Method::PATCH, Method::DELETE);
    vec![
        Operation::new(get.clone(), "/forwards", "listForwards", "The port forwards", forwards)
            .gives::<Vec<ForwardSpec>>(),
        Operation::new(
            post.clone(),
            "/forwards",
            "createForward",
            "Creates a port forward",
            add_forward,
        )
        .takes::<NewForward>()
        .gives::<ForwardSpec>(),
        Operation::new(
            patch.clone(),
            "/forwards/{id}",
            "changeForward",
            "Changes a port forward",
            set_forward,
        )
        .takes::<ForwardEdit>()
        .gives::<ForwardSpec>(),
        Operation::new(
            delete.clone(),
            "/forwards/{id}",
            "deleteForward",
            "Removes a port forward",
            remove_forward,
        ),
        Operation::new(
            get.clone(),
            "/virtual-devices",
            "listVirtualDevices",
            "The virtual devices",
            virtual_devices,
        )
        .gives::<Vec<VirtualDeviceSpec>>(),
        Operation::new(
            post.clone(),
            "/virtual-devices",
            "createVirtualDevice",
            "Creates a virtual device",
            add_virtual_device,
        )
        .takes::<NewVirtualDevice>()
        .gives::<VirtualDeviceSpec>(),
        Operation::new(
            patch.clone(),
            "/virtual-devices/{id}",
            "changeVirtualDevice",
            "Changes a virtual device; its address is for life",
            set_virtual_device,
        )
        .takes::<VirtualDeviceEdit>()
        .gives::<VirtualDeviceSpec>(),
        Operation::new(
            delete.clone(),
            "/virtual-devices/{id}",
            "deleteVirtualDevice",
            "Removes a virtual device",
            remove_virtual_device,
        ),
        Operation::new(get, "/gateways", "listGateways", "The gateways", gateways)
            .gives::<Vec<GatewaySpec>>(),
        Operation::new(post, "/gateways", "createGateway", "Creates a gateway", add_gateway)
            .takes::<NewGateway>()
            .gives::<GatewaySpec>(),
        Operation::new(patch, "/gateways/{id}", "changeGateway", "Changes a gateway", set_gateway)
            .takes::<GatewayEdit>()
            .gives::<GatewaySpec>(),
        Operation::new(
            delete,
            "/gateways/{id}",
            "deleteGateway",
            "Removes a gateway",
            remove_gateway,
        ),
    ]
}

async fn forwards(State(site): Shared, _: Visitor) -> Json<Vec<ForwardSpec>> {
    Json(site.known().await.spec.forwards)
}

async fn virtual_devices(State(site): Shared, _: Visitor) -> Json<Vec<VirtualDeviceSpec>> {
    Json(site.known().await.spec.virtual_devices)
}

async fn gateways(State(site): Shared, _: Visitor) -> Json<Vec<GatewaySpec>> {
    Json(site.known().await.spec.gateways)
}

fn odd() -> Refusal {
    Refusal::new(Why::Failed, "the broker's answer makes no sense: update this edge")
}

fn forward(changed: EdgeChanged) -> Result<ForwardSpec, Failure> {
    match changed {
        EdgeChanged::Forward(spec) => Ok(spec),
        EdgeChanged::VirtualDevice(_) | EdgeChanged::Gateway(_) | EdgeChanged::Removed => {
            Err(odd().into())
        }
    }
}

fn virtual_device(changed: EdgeChanged) -> Result<VirtualDeviceSpec, Failure> {
    match changed {
        EdgeChanged::VirtualDevice(spec) => Ok(spec),
        EdgeChanged::Forward(_) | EdgeChanged::Gateway(_) | EdgeChanged::Removed => {
            Err(odd().into())
        }
    }
}

fn gateway(changed: EdgeChanged) -> Result<GatewaySpec, Failure> {
    match changed {
        EdgeChanged::Gateway(spec) => Ok(spec),
        EdgeChanged::Forward(_) | EdgeChanged::VirtualDevice(_) | EdgeChanged::Removed => {
            Err(odd().into())
        }
    }
}

type Created<T> = Result<(StatusCode, Json<T>), Failure>;

async fn add_forward(
    State(site): Shared,
    visitor: Visitor,
    Content(new): Content<NewForward>,
) -> Created<ForwardSpec> {
    let changed = site.change(&visitor.asker, EdgeChange::AddForward(new)).await?;
    Ok((StatusCode::CREATED, Json(forward(changed)?)))
}

async fn set_forward(
    State(site): Shared,
    visitor: Visitor,
    Path(id): Path<String>,
    Content(edit): Content<ForwardEdit>,
) -> Given<ForwardSpec> {
    let id = id.parse().map_err(|_| Refusal::not_found("port forward"))?;
    let changed = site.change(&visitor.asker, EdgeChange::SetForward { id, edit }).await?;
    Ok(Json(forward(changed)?))
}

async fn remove_forward(
    State(site): Shared,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<StatusCode, Failure> {
    let id = id.parse().map_err(|_| Refusal::not_found("port forward"))?;
    site.change(&visitor.asker, EdgeChange::RemoveForward { id }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn add_virtual_device(
    State(site): Shared,
    visitor: Visitor,
    Content(new): Content<NewVirtualDevice>,
) -> Created<VirtualDeviceSpec> {
    let changed = site.change(&visitor.asker, EdgeChange::AddVirtualDevice(new)).await?;
    Ok((StatusCode::CREATED, Json(virtual_device(changed)?)))
}

async fn set_virtual_device(
    State(site): Shared,
    visitor: Visitor,
    Path(id): Path<String>,
    Content(edit): Content<VirtualDeviceEdit>,
) -> Given<VirtualDeviceSpec> {
    let id = id.parse().map_err(|_| Refusal::not_found("virtual device"))?;
    let changed = site.change(&visitor.asker, EdgeChange::SetVirtualDevice { id, edit }).await?;
    Ok(Json(virtual_device(changed)?))
}

async fn remove_virtual_device(
    State(site): Shared,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<StatusCode, Failure> {
    let id = id.parse().map_err(|_| Refusal::not_found("virtual device"))?;
    site.change(&visitor.asker, EdgeChange::RemoveVirtualDevice { id }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn add_gateway(
    State(site): Shared,
    visitor: Visitor,
    Content(new): Content<NewGateway>,
) -> Created<GatewaySpec> {
    let changed = site.change(&visitor.asker, EdgeChange::AddGateway(new)).await?;
    Ok((StatusCode::CREATED, Json(gateway(changed)?)))
}

async fn set_gateway(
    State(site): Shared,
    visitor: Visitor,
    Path(id): Path<String>,
    Content(edit): Content<GatewayEdit>,
) -> Given<GatewaySpec> {
    let id = id.parse().map_err(|_| Refusal::not_found("gateway"))?;
    let changed = site.change(&visitor.asker, EdgeChange::SetGateway { id, edit }).await?;
    Ok(Json(gateway(changed)?))
}

async fn remove_gateway(
    State(site): Shared,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<StatusCode, Failure> {
    let id = id.parse().map_err(|_| Refusal::not_found("gateway"))?;
    site.change(&visitor.asker, EdgeChange::RemoveGateway { id }).await?;
    Ok(StatusCode::NO_CONTENT)
}
