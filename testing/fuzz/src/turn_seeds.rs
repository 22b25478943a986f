//! Where the fuzzers of TURN begin.

use warren_turn::{Builder, Class, Method, TransactionId};

type Seeds = Vec<(&'static str, Vec<u8>)>;

/// Scripts for a server; see `World::step` in `turn.rs`. A signed request is: client, id, method,
/// how many attributes and which, how many values and which.
pub(crate) fn turn_server() -> Seeds {
    const ALLOCATE: [u8; 7] = [1, 0, 1, 0, 1, 0, 0];
    let virtual_of = |n| [1, n, n, 0, 3, 0, 1, 7, 0];
    let bind = |n, peer| [1, n, n, 3, 2, 10, 8, 2, 0, peer];
    let (to_0, to_1) = (0x40, 0x41);
    let all = |parts: &[&[u8]]| parts.concat();
    vec![
        ("challenge", all(&[&[0, 0, 1, 20, 0, 3, 0, 0, 0x21, 0x12, 0xa4, 0x42], &[7; 12]])),
        ("allocate", all(&[&[0], &ALLOCATE, &[1, 0, 1, 2, 1, 8, 1, 0xc8, 8, 0, 0xc8, 10, 200]])),
        (
            "virtual-pair",
            all(&[
                &[1],
                &virtual_of(0),
                &virtual_of(1),
                &bind(0, to_1),
                &[7, 0, 0, 9],
                &bind(1, to_0),
                &[7, 0, 0, 9, 7, 1, 0, 9, 10, 80, 7, 0, 0, 9],
            ]),
        ),
        ("even-port", all(&[&[2], &[1, 0, 1, 0, 2, 0, 4, 2, 1, 1, 12, 1], &ALLOCATE, &[10, 10]])),
        ("both-families", all(&[&[0], &[1, 0, 1, 0, 2, 0, 3, 0, 1, 0, 1, 1, 2, 6, 2, 1, 0]])),
        ("channel", all(&[&[0], &ALLOCATE, &[1, 0, 1, 3, 2, 10, 8, 2, 1, 0xc9, 7, 0, 1, 50]])),
        ("send", all(&[&[0], &ALLOCATE, &[1, 0, 1, 2, 1, 8, 1, 0xc8, 15, 0, 0xc8, 30]])),
        ("stream", all(&[&[4, 11, 0, 11, 1], &[1, 0x20, 1, 0, 1, 0, 0, 10, 9, 11, 0]])),
        ("revoked", all(&[&[0], &ALLOCATE, &[13, 1], &ALLOCATE, &[14, 255, 255], &ALLOCATE])),
    ]
}

pub(crate) fn turn_stream() -> Seeds {
    let id = TransactionId([3; 12]);
    let mut stun = Vec::new();
    Builder::new(&mut stun, Class::Request, Method::ALLOCATE, id).requested_transport(17);
    let data = [0x40, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0];
    vec![
        ("messages", [&[6, 0], stun.as_slice(), &data, &stun, &data].concat()),
        ("too-long", [&[6, 1], stun.as_slice(), &[0x40, 0, 4, 0, 1, 2]].concat()),
        ("http", [&[30, 0], &b"GET / HTTP/1.1\r\n\r\n"[..]].concat()),
        ("tls", vec![2, 0, 0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3]),
    ]
}

/// Scripts for a client; see `World::step` in `turn_client.rs`. An answer is: to which request, how,
/// with which code, how many bytes of an attribute and which.
pub(crate) fn turn_client() -> Seeds {
    vec![
        ("allocated", vec![3, 6, 1, 0, 2, 0, 0, 1, 1, 0, 0, 0, 14, 0, 11, 200, 1, 2, 2, 9, 0]),
        ("challenged", vec![0, 1, 0, 0x15 | 32, 2, 0, 1, 1, 2, 0, 0, 0x86, 8, 11, 90]),
        ("stale", vec![1, 1, 0, 5 | 32, 5, 0, 1, 1, 2, 0, 0, 12, 1, 2, 0, 0, 0]),
        ("mismatch", vec![1, 1, 0, 1, 4, 0, 1, 1, 0, 0, 0, 1, 2, 2, 0, 0, 13, 10, 255]),
        ("lost", vec![3, 1, 0, 2, 0, 0, 6, 1, 1, 1, 4, 0, 1, 2, 2, 0, 0, 1, 3, 0, 0, 0]),
        ("silence", vec![1, 11, 255]),
        ("stream", vec![6, 1, 0, 2, 0, 0, 8, 15, 9, 7, 13, 11, 30]),
    ]
}
