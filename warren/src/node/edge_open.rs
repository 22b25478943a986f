//! What `warren edge` says of what is set: whether it is in fact open, to which card it is bound, and
//! what may surprise.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use warren_node::local::{EdgeFound, EdgeWork};
use warren_proto::{CardAt, EdgeChanged, EdgeOpen, ForwardSpec, MacAddr, Ports};

use super::edge_lan;
use super::edge_remote::Asked;
use crate::cli::Card;

/// How long what is set takes to be open at most, by the broker, the mesh and the kernel.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(150);
/// FTP's port for commands.
const FTP: u16 = 21;

/// What is in fact open; nothing, if nobody says.
pub(super) async fn opened(client: &Asked) -> Option<EdgeOpen> {
    match edge_lan::work(client, EdgeWork::Open).await {
        Ok(EdgeFound::Open(open)) => Some(open),
        Ok(_) | Err(_) => None,
    }
}

/// The card that a target is to be bound to: the one that was given, or that which the edge has seen there.
pub(super) async fn bind(client: &Asked, ip: Ipv4Addr, given: Option<Card>) -> Option<MacAddr> {
    if let Some(Card(given)) = given {
        return given;
    }
    // An edge that knows nothing of it leaves it at the address, and so does one that says no to the change.
    let Ok(EdgeFound::Card(CardAt { mac, why })) = edge_lan::work(client, EdgeWork::Card(ip)).await
    else {
        return None;
    };
    match mac {
        Some(mac) => eprintln!(
            "warren: note: bound to the device's card {mac}, {why}: it is followed to another address (`--mac \
             none` binds it to {ip})"
        ),
        None if !why.is_empty() => eprintln!(
            "warren: note: bound to the address {ip} and to no card: {why}; `set` with `--mac` binds it to the \
             device's"
        ),
        None => {}
    }
    mac
}

/// Says what doesn't work of what was just set, once it is open or can't be.
pub(super) async fn tell(client: &Asked, changed: &EdgeChanged) {
    let (what, is_enabled) = match changed {
        EdgeChanged::Forward(it) => (format!("forward '{}'", it.name), it.enabled),
        EdgeChanged::VirtualDevice(it) => (format!("virtual device '{}'", it.name), it.enabled),
        EdgeChanged::Gateway(it) if it.is_internet() => {
            ("gateway to the internet".to_owned(), it.enabled)
        }
        EdgeChanged::Gateway(it) => (format!("gateway to {}", it.lan), it.enabled),
        EdgeChanged::Removed => return,
    };
    if !is_enabled {
        return;
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        // What was set before it may be open still.
        sleep(LOOK * 2).await;
        let Some(open) = opened(client).await else { return };
        let problem = problem_of(&open, &what).filter(|problem| !is_passing(problem));
        if let Some(problem) = problem {
            eprintln!("warren: note: {problem}");
            return;
        }
        if is_open(&open, changed) || deadline <= Instant::now() {
            return;
        }
    }
}

/// What is waited for, a moment longer.
fn is_passing(problem: &str) -> bool {
    problem.contains("is being tested") || problem.contains("waiting for the chosen device")
}

fn is_open(open: &EdgeOpen, changed: &EdgeChanged) -> bool {
    match changed {
        EdgeChanged::Forward(it) => open.forwards.contains_key(&it.id),
        EdgeChanged::VirtualDevice(it) => open.virtual_devices.contains_key(&it.id),
        EdgeChanged::Gateway(it) => open.gateways.contains_key(&it.id),
        EdgeChanged::Removed => true,
    }
}

/// The problem of one thing, by its name.
fn problem_of<'a>(open: &'a EdgeOpen, what: &str) -> Option<&'a String> {
    let is_its = |problem: &&String| {
        problem.strip_prefix(what).is_some_and(|rest| rest.starts_with([':', ' ']))
    };
    open.problems.iter().find(is_its)
}

/// What doesn't work, after a list.
pub(super) fn list_problems(open: Option<&EdgeOpen>) {
    for problem in open.into_iter().flat_map(|open| &open.problems) {
        eprintln!("warren: note: {problem}");
    }
}

/// What may surprise of a forward: FTP has second connections, which a policy of ports doesn't know.
pub(super) fn warn_of_ftp(changed: &EdgeChanged) {
    let is_ftp = match changed {
        EdgeChanged::Forward(ForwardSpec { target_port, .. }) => *target_port == FTP,
        EdgeChanged::VirtualDevice(it) => it.ports.contains(&Ports::Tcp(FTP, FTP)),
        EdgeChanged::Gateway(_) | EdgeChanged::Removed => false,
    };
    if is_ftp {
        eprintln!(
            "warren: note: FTP opens second connections at other ports: where a policy or `--allow` names port 21 \
             alone, they hang; docs/edge.md, \"FTP and SIP\", says what helps"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_of_what_it_begins_with() {
        let problems = ["forward 'cam 2': a", "forward 'cam' isn't open: b", "nothing is open: c"];
        let problems = problems.map(str::to_owned).into();
        let open = EdgeOpen { problems, ..EdgeOpen::default() };
        let of = |what: &str| problem_of(&open, what).map(String::as_str);
        assert_eq!(of("forward 'cam'"), Some("forward 'cam' isn't open: b"));
        assert_eq!(of("forward 'cam 2'"), Some("forward 'cam 2': a"));
        assert_eq!(of("forward 'cam 3'"), None);
    }
}
