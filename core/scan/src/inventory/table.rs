//! The devices for spreadsheets (RFC 4180).

use std::fmt::Write as _;

use super::{Inventory, Service};

impl Inventory {
    /// The devices as a table for spreadsheets.
    pub fn to_csv(&self) -> String {
        let mut csv = String::from(
            "ip,mac,vendor,randomised,names,kind,services,rtt_ms,first_seen,last_seen,ipv6\n",
        );
        for device in self.devices.values() {
            let names: Vec<&str> = device.names.values().map(String::as_str).collect();
            let ipv6: Vec<String> = device.ipv6.iter().map(ToString::to_string).collect();
            let services: Vec<String> = device.services.iter().map(describe).collect();
            let fields = [
                device.ip.to_string(),
                device.mac.map(|mac| mac.to_string()).unwrap_or_default(),
                device.vendor.clone().unwrap_or_default(),
                device.randomised.to_string(),
                names.join(" | "),
                format!("{:?}", device.kind).to_lowercase(),
                services.join(" | "),
                device
                    .rtt_us
                    .map(|us| format!("{}.{:03}", us / 1000, us % 1000))
                    .unwrap_or_default(),
                device.first_seen_unix.to_string(),
                device.last_seen_unix.to_string(),
                ipv6.join(" | "),
            ];
            let line: Vec<String> = fields.iter().map(|field| quoted(field)).collect();
            // Writing to a string doesn't fail.
            let _ = writeln!(csv, "{}", line.join(","));
        }
        csv
    }
}

fn describe((port, service): (&String, &Service)) -> String {
    match service.title.as_ref().or(service.banner.as_ref()) {
        Some(text) => format!("{port} {text}"),
        None => port.clone(),
    }
}

/// A field of CSV (RFC 4180). What a spreadsheet would take for a formula is kept from it.
fn quoted(field: &str) -> String {
    let guard = if field.starts_with(['=', '+', '-', '@']) { "'" } else { "" };
    format!("\"{guard}{}\"", field.replace('"', "\"\""))
}
