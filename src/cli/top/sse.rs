//! Server-sent events, as the HTML standard has them: bytes to events.

/// The most bytes of one event; five minutes of samples are a tenth of it.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// One event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// What it is; `message` where the stream does not say.
    pub name: String,
    pub data: String,
}

/// Bytes of a stream, and what they have made up of the next event.
#[derive(Default)]
pub(super) struct Parser {
    buffer: Vec<u8>,
    /// Of the buffer, these are lines that were looked at.
    parsed: usize,
    name: String,
    data: Option<String>,
}

impl Parser {
    /// Takes what came.
    ///
    /// # Errors
    /// An event does not end.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        self.buffer.drain(..self.parsed);
        self.parsed = 0;
        self.buffer.extend_from_slice(bytes);
        let event_bytes = self.buffer.len() + self.data.as_ref().map_or(0, String::len);
        if event_bytes > EVENT_BYTES_MAX { Err("an event is too long") } else { Ok(()) }
    }

    /// The next event that is there as a whole.
    pub fn next(&mut self) -> Option<Event> {
        while let Some(length) = self.buffer[self.parsed..].iter().position(|byte| *byte == b'\n') {
            let line = &self.buffer[self.parsed..self.parsed + length];
            let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned();
            self.parsed += length + 1;
            if let Some(event) = self.take(&line) {
                return Some(event);
            }
        }
        None
    }

    fn take(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            let name = if name.is_empty() { "message".to_owned() } else { name };
            return self.data.take().map(|data| Event { name, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match (field, &mut self.data) {
            ("event", _) => self.name = value.to_owned(),
            ("data", Some(data)) => data.extend(["\n", value]),
            ("data", data) => *data = Some(value.to_owned()),
            // Comments keep a connection alive; the other fields are for browsers.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": hello\n\nevent: history\ndata: [1,\ndata:2]\nid: 5\n\ndata\r\n\r\nevent: lost\n\nretry: 1\nevent:sample\ndata:  {\"é\": 1}\n\nevent: unfinished\ndata: 1\n";

    fn events(chunk_bytes: usize) -> Vec<(String, String)> {
        let mut parser = Parser::default();
        let mut events = Vec::new();
        for chunk in STREAM.as_bytes().chunks(chunk_bytes) {
            parser.push(chunk).expect("short");
            events.extend(std::iter::from_fn(|| parser.next()).map(|event| (event.name, event.data)));
        }
        events
    }

    #[test]
    fn events_are_the_same_however_the_bytes_arrive() {
        let expected = [("history", "[1,\n2]"), ("message", ""), ("sample", " {\"é\": 1}")];
        let expected = expected.map(|(name, data)| (name.to_owned(), data.to_owned()));
        for chunk_bytes in [1, 2, 3, 7, 1000] {
            assert_eq!(events(chunk_bytes), expected, "{chunk_bytes} bytes at once");
        }
    }

    #[test]
    fn an_event_without_end_is_given_up() {
        // Of lines that end, and of one that does not.
        for chunk in [format!("data: {}\n", "x".repeat(9000)), "x".repeat(9000)] {
            let mut parser = Parser::default();
            let pushes = 0..EVENT_BYTES_MAX / 9000 + 2;
            let refused = pushes.map(|_| {
                let pushed = parser.push(chunk.as_bytes());
                assert_eq!(parser.next(), None);
                pushed
            });
            assert_eq!(refused.last(), Some(Err("an event is too long")));
        }
    }
}
