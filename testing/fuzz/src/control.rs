//! The control session's messages, and what people paste: everything that is text.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;
use warren_proto::{
    AccountId, Apply, BrokerIdentity, Challenge, CheckIn, CheckInReply, ConnectRequest,
    ConnectSignal, Delta, DeviceId, DeviceName, JoinLink, MapVersion, Netmap, Pin, Problem,
    PublicKey, Register, Registered, RelayEvent, RelayInit, RelayReport, RelayReported,
    is_usable_endpoint, possession_message,
};

use crate::input::Input;

/// The first byte says what the rest is taken for. What can be read must survive being written
/// and read again.
pub fn fuzz_control(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.u8();
    let text = input.rest();
    match kind % 20 {
        0 => json::<Netmap>(text, netmap),
        1 => json::<Delta>(text, |_| {}),
        2 => json::<CheckIn>(text, check_in),
        3 => json::<CheckInReply>(text, |_| {}),
        4 => json::<Register>(text, register),
        5 => json::<Registered>(text, |_| {}),
        6 => json::<Challenge>(text, |_| {}),
        7 => json::<ConnectRequest>(text, |_| {}),
        8 => json::<ConnectSignal>(text, |_| {}),
        9 => json::<Problem>(text, |_| {}),
        10 => join_link(text),
        11 => plain::<MapVersion>(text),
        12 => plain::<Pin>(text),
        13 => plain::<PublicKey>(text),
        14 => name(text),
        16 => json::<RelayReport>(text, |_| {}),
        17 => json::<RelayReported>(text, |_| {}),
        18 => json::<RelayInit>(text, |_| {}),
        19 => relay_event(text),
        _ => map_and_delta(text),
    }
}

fn json<T>(text: &[u8], check: impl Fn(&T))
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let Ok(value) = serde_json::from_slice::<T>(text) else { return };
    let written = serde_json::to_vec(&value).expect("what was read can be written");
    let again: T = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(again, value);
    check(&value);
}

/// An event of a relay server's stream: its name and its data on two lines.
fn relay_event(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let (name, data) = text.split_once('\n').unwrap_or((text, ""));
    let Ok(event) = RelayEvent::parse(name, data) else { return };
    assert!(!event.data().contains('\n'), "the data field is one line");
    let again = RelayEvent::parse(event.name(), &event.data());
    assert_eq!(again.expect("what was written can be read"), event);
}

fn plain<T>(text: &[u8])
where
    T: FromStr + Display + PartialEq + Debug,
    T::Err: Debug + Display,
{
    let Ok(text) = std::str::from_utf8(text) else { return };
    match text.parse::<T>() {
        Ok(value) => {
            let written = value.to_string();
            assert_eq!(written.parse::<T>().expect("what was written can be read"), value);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn name(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    plain::<DeviceId>(text.as_bytes());
    plain::<AccountId>(text.as_bytes());
    plain::<DeviceName>(text.as_bytes());
    let name = DeviceName::from_free_text(&text);
    assert_eq!(name.as_str().parse::<DeviceName>().as_ref(), Ok(&name));
    let numbered = name.numbered(999);
    assert!(numbered.as_str().parse::<DeviceName>().is_ok());
    assert_eq!(DeviceName::from_free_text(name.as_str()), name);
}

fn netmap(netmap: &Netmap) {
    for peer in &netmap.peers {
        let _ = peer.endpoints.iter().filter(|e| is_usable_endpoint(&e.addr)).count();
    }
}

fn check_in(check_in: &CheckIn) {
    for endpoint in check_in.state.iter().flat_map(|state| &state.endpoints) {
        if is_usable_endpoint(&endpoint.addr) {
            assert!(endpoint.addr.port() != 0 && !endpoint.addr.ip().is_loopback());
        }
    }
}

fn join_link(text: &[u8]) {
    plain::<JoinLink>(text);
    let link = std::str::from_utf8(text).ok().and_then(|text| text.parse::<JoinLink>().ok());
    if let Some(link @ JoinLink { pin: None, .. }) = link {
        let BrokerIdentity::Host(host) = BrokerIdentity::of(&link) else { panic!("it has no pin") };
        assert_eq!(BrokerIdentity::host(&host), BrokerIdentity::Host(host));
    }
}

fn register(register: &Register) {
    let Register { challenge, key, join_key, .. } = register;
    let message = possession_message(&BrokerIdentity::host(challenge), challenge, key, join_key);
    assert!(message.len() > challenge.len() + 32 + join_key.len());
}

/// A netmap and a delta on two lines: applying keeps the map in order and its version
/// true, and applying again changes nothing.
fn map_and_delta(text: &[u8]) {
    let mut lines = text.splitn(2, |&byte| byte == b'\n');
    let (Some(map), Some(delta)) = (lines.next(), lines.next()) else { return };
    let Ok(mut map) = serde_json::from_slice::<Netmap>(map) else { return };
    let Ok(delta) = serde_json::from_slice::<Delta>(delta) else { return };
    let before = map.clone();
    match map.apply(&delta) {
        Apply::Applied if delta.is_news_to(before.version) => {
            assert_eq!(map.version, delta.version);
            assert!(map.peers.is_sorted_by_key(|peer| peer.id));
            let after = map.clone();
            assert_eq!(map.apply(&delta), Apply::Applied, "passed over");
            assert_eq!(map, after);
        }
        Apply::Applied => assert_eq!(map, before),
        Apply::BaseMismatch => assert_eq!(map, before),
    }
}
