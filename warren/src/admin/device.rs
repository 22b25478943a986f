use serde::Serialize;
use warren_broker::admin::{Client, Device, DeviceChange, DevicePath, JoinApproval};
use warren_proto::Admission;

use crate::cli::values::StaticEndpoint;
use crate::cli::{DeviceExpiry, Devices};
use crate::output::{self, say};
use crate::why::{path_word, way};

pub(crate) async fn run(client: &Client, command: Devices, json: bool) -> anyhow::Result<()> {
    match command {
        Devices::List(account) => {
            super::show(client.devices(&account.account), json, |devices| list(devices)).await
        }
        Devices::Show { account, name } => {
            let device = client.device(&account.account, &name).await?;
            let paths = client.device_paths(&account.account, &name).await?;
            if json {
                return output::json(&Shown { device, paths });
            }
            one(&device);
            list_paths(&paths);
            Ok(())
        }
        Devices::Set { account, name, rename, static_endpoint, tags, owner, expiry } => {
            let change = DeviceChange {
                name: rename.map(|name| name.to_string()),
                static_endpoint: static_endpoint.map(|endpoint| match endpoint {
                    StaticEndpoint::Cleared => None,
                    StaticEndpoint::At(addr) => Some(addr),
                }),
                tags: tags.map(|tags| tags.into_iter().filter(|tag| !tag.is_empty()).collect()),
                owner,
                never_expires: expiry.map(|expiry| expiry == DeviceExpiry::Never),
            };
            super::show(client.change_device(&account.account, &name, &change), json, one).await
        }
        Devices::LetIn { account, code, tags } => {
            let approval = JoinApproval { tags: tags.into_iter().collect() };
            let let_in = client.let_in(&account.account, &code, &approval);
            super::show(let_in, json, |device| {
                say!("{} ({}, from {}) may join.", device.name, device.os, device.source);
            })
            .await
        }
        Devices::Expire { account, name } => {
            let expired = client.expire_device(&account.account, &name);
            super::show(expired, json, |device| {
                say!("{} is out of the mesh until it is renewed or joins again.", device.name);
            })
            .await
        }
        Devices::Renew { account, name } => {
            let renewed = client.renew_device(&account.account, &name);
            super::show(renewed, json, |device| say!("{} {}.", device.name, lifetime(device))).await
        }
        Devices::Reach { account, name } => {
            let reached = client.reach_device(&account.account, &name).await?;
            match json {
                true => output::json(&reached)?,
                false => say!("{}", reached.text),
            }
            anyhow::ensure!(reached.reached, "{name} isn't reached at {}", reached.endpoint);
            Ok(())
        }
        Devices::Approve { account, name } => {
            let approved = client.approve_device(&account.account, &name);
            super::show(approved, json, |device| say!("{} is in the mesh.", device.name)).await
        }
        Devices::Refuse { account, name } => {
            let refused = client.refuse_device(&account.account, &name);
            super::show(refused, json, |device| say!("{} is turned away.", device.name)).await
        }
        Devices::TurnAway { account, code } => {
            let turned_away = client.turn_away(&account.account, &code);
            super::show(turned_away, json, |device| say!("{} is turned away.", device.name)).await
        }
        Devices::Remove { account, name, yes } => {
            let device = client.device(&account.account, &name).await?;
            let question = format!(
                "Remove the device {} ({}) for good? It is cut off at once.",
                device.name, device.ipv4
            );
            super::confirm(&question, yes)?;
            let removed = client.remove_device(&account.account, &name).await?;
            let mut text = format!("{name} is removed and cut off everywhere.");
            if removed.was_relay {
                text.push_str(" It was a connection relay of the account; ");
                text.push_str(&match removed.relays_left {
                    0 => "none is left, so devices without a direct path don't reach each other: \
                          name another one with `warren admin relays set NAME`."
                        .to_owned(),
                    left => format!("{left} left, see `warren admin relays list`."),
                });
            }
            output::done(json, &text)
        }
    }
}

/// A device with its paths, in JSON.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    device: Device,
    paths: Vec<DevicePath>,
}

fn state(device: &Device) -> &'static str {
    if !device.admission.is_member() {
        return admission_word(device.admission);
    }
    match (device.cloned, device.online) {
        (true, _) => "used by two machines",
        (false, true) => "online",
        (false, false) => "offline",
    }
}

/// Whether a device is in the mesh, in a few words.
pub(super) fn admission_word(admission: Admission) -> &'static str {
    match admission {
        Admission::Member => "in the mesh",
        Admission::Waiting => "waits for approval",
        Admission::Expired => "expired",
        Admission::Suspended => "suspended",
        Admission::LoggedOut => "logged out",
        Admission::Other => "not in the mesh",
    }
}

fn lifetime(device: &Device) -> String {
    match device.expires {
        Some(at) => format!("expires {at}"),
        None => "does not expire".to_owned(),
    }
}

fn last_seen(device: &Device) -> String {
    match (device.online, device.last_seen) {
        (true, _) => "now".to_owned(),
        (false, Some(time)) => time.to_string(),
        (false, None) => "never".to_owned(),
    }
}

fn list(devices: &[Device]) {
    let mut table = output::table(&["DEVICE", "ADDRESS", "STATE", "LAST SEEN", "SYSTEM", "TAGS"]);
    for device in devices {
        table.add_row([
            device.name.to_string(),
            device.ipv4.to_string(),
            state(device).to_owned(),
            last_seen(device),
            device.os.clone(),
            device.tags.iter().cloned().collect::<Vec<_>>().join(", "),
        ]);
    }
    output::print_table(&table);
}

fn one(device: &Device) {
    say!("{}  {}", device.name, state(device));
    say!("  id         {}", device.id);
    say!("  name       {}", device.dns_name);
    say!("  addresses  {}, {}", device.ipv4, device.ipv6);
    say!("  key        {}", device.key);
    say!("  system     {} (warren {})", device.os, device.software);
    say!("  joined     {}", device.created);
    say!("  last seen  {}", last_seen(device));
    say!("  lifetime   {}", lifetime(device));
    if let Some(endpoint) = device.static_endpoint {
        say!("  static     {endpoint}");
    }
    for endpoint in &device.endpoints {
        say!("  endpoint   {}", endpoint.addr);
    }
    if !device.tags.is_empty() {
        say!("  tags       {}", device.tags.iter().cloned().collect::<Vec<_>>().join(", "));
    }
    if let Some(owner) = &device.owner {
        say!("  owner      {owner}");
    }
    if device.cloned {
        say!(
            "  ! two machines use this identity (a copied disk?): on one of them run \
             `warren logout --new-identity` and join again"
        );
    }
}

fn list_paths(paths: &[DevicePath]) {
    for path in paths {
        let relay = path.relay.as_ref().map(warren_proto::DeviceName::as_str);
        let way = way(path.path, path.endpoint, relay, path.reason.as_deref());
        let kind = path_word(path.path);
        let rtt = path.rtt_ms.map(|ms| format!(", {ms:.1} ms")).unwrap_or_default();
        let traffic =
            format!("{} in, {} out", output::bytes(path.rx_bytes), output::bytes(path.tx_bytes));
        let way = way.map(|way| format!(" {way}")).unwrap_or_default();
        say!("  to {}: {kind}{way}{rtt}, {traffic}", path.peer);
    }
}
