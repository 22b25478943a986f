//! The broker's stream of server-sent events, as a node cuts it up.

use warren_proto::SessionEvent;

use crate::input::Input;

// The file alone: with its crate would come an executor and half the tree.
#[path = "../../../shell/control/src/sse.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is a module of another crate")]
mod parser;

use parser::{SseEvent, SseParser};

/// A stream, cut into pieces in two ways: both must yield the same events.
pub fn fuzz_sse(data: &[u8]) {
    let mut input = Input::new(data);
    let step = usize::from(input.u8()) + 1;
    let stream = input.rest();
    let at_once = parse(std::iter::once(stream));
    let in_pieces = parse(stream.chunks(step));
    assert_eq!(at_once, in_pieces);
    for event in at_once {
        assert!(!event.name.contains(['\n', '\r']) && !event.data.contains('\r'));
        if let Ok(parsed) = SessionEvent::parse(&event.name, &event.data) {
            let again = SessionEvent::parse(parsed.name(), &parsed.data());
            assert_eq!(again.expect("what we wrote can be read"), parsed);
        }
    }
}

fn parse<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<SseEvent> {
    let mut parser = SseParser::new();
    let mut events = Vec::new();
    for piece in pieces {
        if parser.push(piece, |event| events.push(event)).is_err() {
            break;
        }
    }
    events
}
