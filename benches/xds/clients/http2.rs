//! As much of HTTP/2 as one gRPC stream per connection needs.

/// What a client opens a connection with: preface, settings, window, and the stream's headers.
pub(crate) fn opening(path: &str, window: u32) -> Vec<u8> {
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let mut settings = Vec::new();
    // SETTINGS_ENABLE_PUSH 0, SETTINGS_INITIAL_WINDOW_SIZE.
    settings.extend([0, 2, 0, 0, 0, 0]);
    settings.extend([0, 4]);
    settings.extend(window.to_be_bytes());
    frame(&mut out, 4, 0, 0, &settings);
    if window > 65_535 {
        frame(&mut out, 8, 0, 0, &(window - 65_535).to_be_bytes());
    }
    let mut headers = vec![0x83, 0x86];
    let mut literal = |index: &[u8], value: &str| {
        headers.extend(index);
        // No value here is 127 bytes or longer.
        headers.push(value.len() as u8);
        headers.extend(value.as_bytes());
    };
    literal(&[0x04], path);
    literal(&[0x01], "xds");
    literal(&[0x0f, 0x10], "application/grpc");
    literal(&[0x00, 2, b't', b'e'], "trailers");
    frame(&mut out, 1, 0x4, STREAM, &headers);
    out
}

/// The one stream.
const STREAM: u32 = 1;

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
}

/// Writes a DATA frame around what `write` adds; it must stay below 16 KiB, or is split.
pub(crate) fn data(out: &mut Vec<u8>, message: &[u8]) {
    for part in message.chunks(16_384) {
        frame(out, 0, 0, STREAM, part);
    }
}

/// What came on a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The stream or the connection is over.
    Over,
    Nothing,
}

/// Reads frames, puts messages together, and answers what the protocol wants answered.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// What does not make a whole frame yet.
    frames: Vec<u8>,
    /// What does not make a whole message yet.
    messages: Vec<u8>,
    /// Bytes read for which the window was not opened again.
    consumed: u32,
}

impl Reader {
    /// Takes what came; hands every whole message to `on_message`, and puts what is to be sent into `out`.
    pub(crate) fn read(
        &mut self,
        bytes: &[u8],
        out: &mut Vec<u8>,
        window: u32,
        on_message: &mut dyn FnMut(&[u8], &mut Vec<u8>),
    ) -> Event {
        let mut held = std::mem::take(&mut self.frames);
        let mut bytes = if held.is_empty() {
            bytes
        } else {
            held.extend_from_slice(bytes);
            &held[..]
        };
        let mut event = Event::Nothing;
        while bytes.len() >= 9 {
            let len = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
            if bytes.len() < 9 + len {
                break;
            }
            let (kind, flags, payload) = (bytes[3], bytes[4], &bytes[9..9 + len]);
            let on_stream = bytes[5..9] == STREAM.to_be_bytes();
            match kind {
                0 if on_stream => {
                    self.consumed += len as u32;
                    self.message(payload, out, on_message);
                    if flags & 1 != 0 {
                        event = Event::Over;
                    }
                }
                1 if flags & 1 != 0 => event = Event::Over,
                3 | 7 => event = Event::Over,
                4 if flags & 1 == 0 => frame(out, 4, 1, 0, &[]),
                6 if flags & 1 == 0 => frame(out, 6, 1, 0, payload),
                _ => {}
            }
            bytes = &bytes[9 + len..];
        }
        self.frames = bytes.to_vec();
        if self.consumed > window / 2 {
            let more = std::mem::take(&mut self.consumed).to_be_bytes();
            frame(out, 8, 0, 0, &more);
            frame(out, 8, 0, STREAM, &more);
        }
        event
    }

    fn message(&mut self, payload: &[u8], out: &mut Vec<u8>, on_message: &mut dyn FnMut(&[u8], &mut Vec<u8>)) {
        let mut held = std::mem::take(&mut self.messages);
        let mut bytes = if held.is_empty() {
            payload
        } else {
            held.extend_from_slice(payload);
            &held[..]
        };
        while bytes.len() >= 5 {
            let len = u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize;
            if bytes.len() < 5 + len {
                break;
            }
            on_message(&bytes[5..5 + len], out);
            bytes = &bytes[5 + len..];
        }
        self.messages = bytes.to_vec();
    }
}
