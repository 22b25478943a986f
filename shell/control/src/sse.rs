//! Server-sent events (WHATWG HTML, §9.2 'Server-sent events'), as far as a broker sends them.
//!
//! Lines end in CR, LF or CRLF. `event:`, `data:` and `id:` fill the event under way, an empty line
//! dispatches it, a line that begins with a colon is a comment (the heartbeat), everything else is
//! ignored. An event without data is not dispatched.

use thiserror::Error;

/// The most bytes of one event, its field names included: a netmap of some ten thousand peers.
pub const MAX_EVENT: usize = 8 << 20;

/// An event was longer than [`MAX_EVENT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an event of the broker's stream is longer than {MAX_EVENT} bytes")]
pub struct TooLong;

/// One event of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SseEvent {
    /// The field `event`; `message` without one.
    pub name: String,
    /// The fields `data`, joined by line feeds.
    pub data: String,
    /// The last `id` that the stream has set.
    pub id: Option<String>,
}

/// Cuts a stream into events. Bounded: never keeps more than [`MAX_EVENT`] bytes.
#[derive(Debug, Default)]
pub struct SseParser {
    line: Vec<u8>,
    /// The last byte was a CR, so an LF belongs to the same line ending.
    after_cr: bool,
    begun: bool,
    name: String,
    data: Option<String>,
    id: Option<String>,
    /// Bytes of the event under way.
    taken: usize,
}

impl SseParser {
    /// A parser at the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the stream, cut wherever, and hands over each event they complete.
    ///
    /// # Errors
    /// An event longer than [`MAX_EVENT`]; the stream can't be followed any further.
    pub fn push(
        &mut self,
        mut chunk: &[u8],
        mut dispatch: impl FnMut(SseEvent),
    ) -> Result<(), TooLong> {
        if std::mem::take(&mut self.after_cr) {
            match chunk.split_first() {
                Some((b'\n', rest)) => chunk = rest,
                Some(_) => {}
                None => self.after_cr = true,
            }
        }
        while let Some(end) = chunk.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
            self.take(&chunk[..end])?;
            let mut next = end + 1;
            if chunk[end] == b'\r' {
                match chunk.get(next) {
                    Some(b'\n') => next += 1,
                    Some(_) => {}
                    None => self.after_cr = true,
                }
            }
            chunk = &chunk[next..];
            if let Some(event) = self.end_line() {
                dispatch(event);
            }
        }
        self.take(chunk)
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        self.taken += bytes.len();
        if self.taken > MAX_EVENT {
            return Err(TooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self) -> Option<SseEvent> {
        let mut line = std::mem::take(&mut self.line);
        // A byte order mark may lead the stream.
        if !std::mem::replace(&mut self.begun, true) && line.starts_with(b"\xef\xbb\xbf") {
            line.drain(..3);
        }
        if line.is_empty() {
            return self.end_event();
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (field, value) = match colon {
            // A comment is no part of an event, and heartbeats must not add up.
            Some(0) => {
                self.taken = self.taken.saturating_sub(line.len());
                return None;
            }
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (&line[..], &[][..]),
        };
        let value = String::from_utf8_lossy(value.strip_prefix(b" ").unwrap_or(value));
        match field {
            b"event" => self.name = value.into_owned(),
            b"data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(&value);
                }
                None => self.data = Some(value.into_owned()),
            },
            b"id" if !value.contains('\0') => self.id = Some(value.into_owned()),
            _ => {}
        }
        None
    }

    fn end_event(&mut self) -> Option<SseEvent> {
        self.taken = 0;
        let name = std::mem::take(&mut self.name);
        let data = self.data.take()?;
        let name = if name.is_empty() { "message".to_owned() } else { name };
        Some(SseEvent { name, data, id: self.id.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(stream: &[u8]) -> Vec<SseEvent> {
        let mut events = Vec::new();
        SseParser::new().push(stream, |event| events.push(event)).unwrap();
        events
    }

    fn event(name: &str, data: &str, id: Option<&str>) -> SseEvent {
        SseEvent { name: name.to_owned(), data: data.to_owned(), id: id.map(str::to_owned) }
    }

    #[test]
    fn fields_make_an_event_and_an_empty_line_ends_it() {
        let stream =
            b"event: delta\nid: a-1\ndata: {}\n\ndata:x\ndata\ndata:  y\n\nevent: lost\n\n";
        assert_eq!(
            parse(stream),
            [event("delta", "{}", Some("a-1")), event("message", "x\n\n y", Some("a-1"))]
        );
    }

    #[test]
    fn every_line_ending_is_understood() {
        for end in ["\n", "\r", "\r\n"] {
            let stream = format!("data: 1{end}{end}: beat{end}data: 2{end}{end}");
            assert_eq!(
                parse(stream.as_bytes()),
                [event("message", "1", None), event("message", "2", None)],
                "{end:?}"
            );
        }
    }

    #[test]
    fn a_byte_order_mark_is_skipped_once() {
        assert_eq!(parse(b"\xef\xbb\xbfdata: 1\n\n"), [event("message", "1", None)]);
        assert_eq!(parse(b"data: 1\n\xef\xbb\xbfdata: 2\n\n"), [event("message", "1", None)]);
    }

    #[test]
    fn an_endless_event_is_refused_and_endless_heartbeats_are_not() {
        let mut parser = SseParser::new();
        let heartbeat = format!("{}\n", ":".repeat(1_000));
        for _ in 0..20_000 {
            parser.push(heartbeat.as_bytes(), |_| panic!("no event")).unwrap();
        }
        let line = format!("data: {}\n", "x".repeat(1_000));
        let refused = (0..9_000).any(|_| parser.push(line.as_bytes(), |_| {}).is_err());
        assert!(refused);
    }
}
