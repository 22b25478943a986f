//! What the broker says of whether this device is in the mesh, for people.

use std::time::Duration;

use warren_proto::{Admission, MAX_APPROVERS, SelfEntry};

use super::Daemon;
use crate::local::HealthCode;
use crate::state::Joined;

/// How long before its end a person is told.
const AHEAD: Duration = Duration::from_secs(14 * 24 * 60 * 60);
const DAY: u64 = 24 * 60 * 60;

impl Daemon {
    /// Notes what a person should know of this device's place in the mesh.
    pub(super) fn judge_admission(&mut self) {
        let now = self.clock.now();
        let [expired, waits, suspended, soon] = match (&self.map, &self.identity.joined) {
            (Some(map), Some(joined)) => notes(&map.netmap.this, joined, now),
            (_, _) => Default::default(),
        };
        self.healths.put(HealthCode::MembershipExpired, expired);
        self.healths.put(HealthCode::WaitsForApproval, waits);
        self.healths.put(HealthCode::AccountSuspended, suspended);
        self.healths.put(HealthCode::ExpiresSoon, soon);
    }
}

/// That it has expired, that it waits, that its account is suspended, that it expires soon.
fn notes(this: &SelfEntry, joined: &Joined, now: Duration) -> [Option<String>; 4] {
    let page = format!("{}/a/{}/devices/{}", joined.url, joined.account_name, this.id);
    let (mut expired, mut waits, mut suspended, mut soon) = (None, None, None, None);
    match this.admission {
        Admission::Member => soon = expires_soon(this, joined, &page, now),
        Admission::Waiting => {
            waits = Some(format!(
                "this device waits for approval and reaches nobody yet; {} can let it in: {page}",
                who(&this.approvers)
            ));
        }
        Admission::Expired => {
            expired = Some(format!(
                "this device's time in the mesh is over; its owner or an admin renews it: {page}, or \
                 it joins again: warren up --server {}",
                joined.url
            ));
        }
        Admission::Suspended => {
            suspended = Some(format!(
                "the account {} is suspended, so there is no mesh; ask the operator of {}",
                joined.account_name, joined.url
            ));
        }
        // The broker ends the session with it; of what is newer the map says enough.
        Admission::LoggedOut | Admission::Other => {}
    }
    [expired, waits, suspended, soon]
}

fn expires_soon(this: &SelfEntry, joined: &Joined, page: &str, now: Duration) -> Option<String> {
    let end = this.expires_unix.filter(|end| *end <= (now + AHEAD).as_secs())?;
    let days = end.saturating_sub(now.as_secs()) / DAY;
    let when = match days {
        0 => "within a day".to_owned(),
        1 => "in a day".to_owned(),
        days => format!("in {days} days"),
    };
    Some(format!(
        "this device's time in the mesh ends {when}; its owner or an admin renews it: {page}, or it \
         joins again then: warren up --server {}",
        joined.url
    ))
}

/// Some who may approve it. They are the broker's words: nothing of them may disturb a terminal.
fn who(approvers: &[String]) -> String {
    let clean = |it: &String| it.chars().filter(|c| !c.is_control()).take(254).collect::<String>();
    let named: Vec<String> = approvers.iter().take(MAX_APPROVERS).map(clean).collect();
    match named.is_empty() {
        true => "an admin of its account".to_owned(),
        false => format!("an admin of its account ({})", named.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use warren_proto::{AccountId, DeviceId, DeviceName};

    use super::*;

    fn joined() -> Joined {
        Joined {
            url: "https://broker.example.org".to_owned(),
            pins: Vec::new(),
            token: String::new(),
            device: DeviceId(1),
            account: AccountId(2),
            account_name: DeviceName::from_free_text("home"),
            name: DeviceName::from_free_text("pi"),
        }
    }

    fn notes_at(admission: Admission, expires_unix: Option<u64>, now: u64) -> [Option<String>; 4] {
        let this = SelfEntry {
            id: DeviceId(1),
            name: DeviceName::from_free_text("pi"),
            ipv4: [100, 80, 0, 1].into(),
            ipv6: std::net::Ipv6Addr::LOCALHOST,
            static_endpoint: None,
            admission,
            expires_unix,
            approvers: vec!["ann@example.org".to_owned(), "bob\u{1b}[2J@x".to_owned()],
        };
        notes(&this, &joined(), Duration::from_secs(now))
    }

    #[test]
    fn a_device_says_why_it_is_not_in_the_mesh_and_who_can_change_that() {
        let [_, waits, ..] = notes_at(Admission::Waiting, None, 0);
        let waits = waits.unwrap();
        assert!(waits.contains("(ann@example.org, bob[2J@x)"), "{waits}");
        assert!(waits.contains("https://broker.example.org/a/home/devices/0000000000000001"));
        let [expired, ..] = notes_at(Admission::Expired, Some(1), 2);
        assert!(expired.unwrap().contains("warren up --server https://broker.example.org"));
        let [_, _, suspended, _] = notes_at(Admission::Suspended, None, 0);
        assert!(suspended.unwrap().contains("suspended"));
        assert!(notes_at(Admission::Member, None, 0).iter().all(Option::is_none));
    }

    #[test]
    fn two_weeks_before_its_end_a_device_says_so() {
        let end = 1_800_000_000;
        let soon = |before| notes_at(Admission::Member, Some(end), end - before)[3].clone();
        assert_eq!(soon(14 * DAY + 1), None);
        assert!(soon(14 * DAY).unwrap().contains("in 14 days"));
        assert!(soon(DAY).unwrap().contains("in a day"));
        assert!(soon(60).unwrap().contains("within a day"));
    }
}
