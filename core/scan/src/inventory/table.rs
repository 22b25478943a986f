//! The devices for spreadsheets (RFC 4180).

use super::{Device, Inventory, Port, Service};

/// The names of the columns.
pub(super) const HEAD: &str =
    "ip,mac,vendor,randomised,names,kind,services,rtt_ms,first_seen,last_seen,ipv6\n";

impl Inventory {
    /// The devices as a table for spreadsheets.
    pub fn to_csv(&self) -> String {
        std::iter::once(HEAD.to_owned()).chain(self.devices.values().map(line)).collect()
    }
}

/// A device's line, with its end.
pub(super) fn line(device: &Device) -> String {
    let names: Vec<&str> = device.names.values().map(|name| &**name).collect();
    let ipv6: Vec<String> = device.ipv6.iter().map(ToString::to_string).collect();
    let services: Vec<String> = device.services.iter().map(describe).collect();
    let fields = [
        device.ip.to_string(),
        device.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        device.vendor().unwrap_or_default(),
        device.is_randomised().to_string(),
        names.join(" | "),
        format!("{:?}", device.kind).to_lowercase(),
        services.join(" | "),
        device.rtt_us.map(|us| format!("{}.{:03}", us / 1000, us % 1000)).unwrap_or_default(),
        device.first_seen_unix.to_string(),
        device.last_seen_unix.to_string(),
        ipv6.join(" | "),
    ];
    let line: Vec<String> = fields.iter().map(|field| quoted(field)).collect();
    line.join(",") + "\n"
}

fn describe((port, service): (&Port, &Service)) -> String {
    match service.title.as_ref().or(service.banner.as_ref()) {
        Some(text) => format!("{port} {text}"),
        None => port.to_string(),
    }
}

/// A field of CSV (RFC 4180). What a spreadsheet would take for a formula is kept from it.
fn quoted(field: &str) -> String {
    let guard = if field.starts_with(['=', '+', '-', '@']) { "'" } else { "" };
    format!("\"{guard}{}\"", field.replace('"', "\"\""))
}
