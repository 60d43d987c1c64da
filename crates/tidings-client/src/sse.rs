//! Server-sent events: from bytes, in whatever pieces they arrive, to messages.

/// The largest message that is kept; the largest event stays well below it.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// One message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) id: Option<String>,
    pub(crate) event: String,
    pub(crate) data: String,
}

/// The server sent a message beyond the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLarge;

/// What has arrived and is not yet a message.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    buffer: Vec<u8>,
    /// Up to here the buffer has no line end.
    looked_at: usize,
    message: Message,
    has_data: bool,
    after_return: bool,
    id: Option<String>,
    /// The id of the last message, or of a later block that had an id and no data. Holds until the
    /// next.
    pub(crate) last_id: Option<String>,
    /// Whether a comment came, which is how a server says that it is there.
    pub(crate) has_beaten: bool,
}

impl Decoder {
    /// Takes the next piece.
    pub(crate) fn feed(&mut self, piece: &[u8]) -> Result<(), TooLarge> {
        if self.buffer.len() + self.message.data.len() + piece.len() > MAX_MESSAGE_BYTES {
            return Err(TooLarge);
        }
        self.buffer.extend_from_slice(piece);
        Ok(())
    }

    /// The next whole message, if there is one.
    pub(crate) fn next(&mut self) -> Option<Message> {
        while let Some(line) = self.line() {
            if !line.is_empty() {
                self.has_beaten |= line.starts_with(':');
                self.field(&line);
                continue;
            }
            self.last_id.clone_from(&self.id);
            if std::mem::take(&mut self.has_data) {
                // Every data line ended in a line feed; the last one is not part of the data.
                self.message.data.pop();
                self.message.id.clone_from(&self.last_id);
                return Some(std::mem::take(&mut self.message));
            }
            self.message = Message::default();
        }
        None
    }

    /// Lines end in a line feed, a carriage return, or both, the two perhaps in different pieces.
    fn line(&mut self) -> Option<String> {
        if self.after_return && !self.buffer.is_empty() {
            self.after_return = false;
            if self.buffer[0] == b'\n' {
                self.buffer.remove(0);
            }
        }
        let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
        let Some(found) = self.buffer[self.looked_at..].iter().position(is_end) else {
            self.looked_at = self.buffer.len();
            return None;
        };
        let end = self.looked_at + found;
        self.after_return = self.buffer[end] == b'\r';
        let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..=end);
        self.looked_at = 0;
        Some(line)
    }

    fn field(&mut self, line: &str) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "data" => {
                self.has_data = true;
                self.message.data.push_str(value);
                self.message.data.push('\n');
            }
            "event" => value.clone_into(&mut self.message.event),
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            // Comments (heartbeats), `retry` and whatever comes later.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str, piece: usize) -> Vec<(Option<String>, String, String)> {
        let mut decoder = Decoder::default();
        let mut messages = Vec::new();
        for piece in text.as_bytes().chunks(piece) {
            decoder.feed(piece).unwrap();
            while let Some(message) = decoder.next() {
                messages.push((message.id, message.event, message.data));
            }
        }
        messages
    }

    #[test]
    fn messages_are_the_same_in_whatever_pieces_they_come() {
        let text = ": heartbeat\n\nid: 1\nevent: event\ndata: {\"é\":1}\n\n\
                    id: 2\r\ndata: a\r\ndata:b\r\n\r\nid: 3\rdata: c\r\rid: 4\n\ndata\n\nid: 5\n";
        let message = |id: Option<&str>, event: &str, data: &str| {
            (id.map(str::to_owned), event.to_owned(), data.to_owned())
        };
        let expected = [
            message(Some("1"), "event", "{\"é\":1}"),
            message(Some("2"), "", "a\nb"),
            message(Some("3"), "", "c"),
            message(Some("4"), "", ""),
        ];
        for piece in 1..=text.len() {
            assert_eq!(decode(text, piece), expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_message_without_end_is_refused() {
        let mut decoder = Decoder::default();
        let piece = vec![b'x'; 1024 * 1024];
        let fed: Result<Vec<()>, TooLarge> = (0..17).map(|_| decoder.feed(&piece)).collect();
        assert_eq!(fed, Err(TooLarge));
    }
}
