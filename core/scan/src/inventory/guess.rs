//! What a device seems to be, and who made it.

use macaddr_ouidb::OUI_DB_BUNDLED;
use warren_proto::MacAddr;

use super::{Device, Kind, Port};
use crate::plan::UdpService;

/// What its ports and names tell; the most telling first.
pub(super) fn guess(device: &Device) -> Kind {
    let serves = |port: u16| device.services.contains_key(&Port::tcp(port));
    let answers = |service: UdpService| device.services.contains_key(&Port::udp(service.port()));
    let services = device.services.values().flat_map(|s| s.banner.iter().chain(&s.title));
    let said = device.names.values().chain(services).map(|text| text.to_lowercase());
    let maker = device.vendor().map(|name| name.to_lowercase());
    let texts: Vec<String> = said.chain(maker).collect();
    let says = |words: &[&str]| texts.iter().any(|text| words.iter().any(|it| text.contains(it)));
    if serves(554) || says(&["camera", "ipcam", "hikvision", "dahua", "axis", "nvr"]) {
        Kind::Camera
    } else if serves(9100) || serves(631) || serves(515) || says(&["printer", "laserjet"]) {
        Kind::Printer
    } else if serves(502) || answers(UdpService::BacNet) || says(&["plc", "simatic", "modbus"]) {
        Kind::Controller
    } else if serves(53) || says(&["router", "fritz!box", "openwrt", "routeros", "gateway"]) {
        Kind::Router
    } else if says(&["synology", "qnap", "truenas", "diskstation"]) {
        Kind::Storage
    } else if answers(UdpService::Sip) || says(&["iphone", "ipad", "android", "pixel", "galaxy"]) {
        Kind::Phone
    } else if serves(3389) || serves(445) || serves(22) {
        Kind::Computer
    } else {
        Kind::Unknown
    }
}

/// Who made a card; nobody has registered those that devices make up.
pub(super) fn vendor(mac: MacAddr) -> Option<String> {
    let entry = OUI_DB_BUNDLED.lookup(&mac.0).filter(|_| !mac.is_randomised())?;
    Some(entry.name().to_owned()).filter(|name| !name.is_empty())
}
