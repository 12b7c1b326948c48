//! A collector: takes OTLP over HTTP, on threads of its own, and reads the protobuf by its field numbers, without any code of ours.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

/// One span, as a collector reads it. Ids are hexadecimal.
#[derive(Debug, Clone, Default)]
pub(crate) struct Span {
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) state: String,
    pub(crate) name: String,
    pub(crate) kind: u64,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) attributes: BTreeMap<String, String>,
    /// Code and text of its status; `None` if it has none.
    pub(crate) status: Option<(u64, String)>,
    pub(crate) flags: u64,
    /// Of its resource.
    pub(crate) service: String,
    /// Of its scope.
    pub(crate) scope: String,
}

impl Span {
    pub(crate) fn get(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

/// What it says to a request.
#[derive(Debug, Clone)]
pub(crate) enum Say {
    /// Thank you, but for so many spans.
    Taken { rejected: u8 },
    /// A status such as `503 Service Unavailable`.
    Status(&'static str),
    /// Nothing, while the connection stays open.
    Nothing,
}

#[derive(Debug, Default)]
struct Seen {
    heads: Vec<String>,
    spans: Vec<Span>,
}

/// A collector on a free port of this machine.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

impl Collector {
    /// It takes everything.
    pub(crate) fn start() -> Self {
        Self::saying(|_| Say::Taken { rejected: 0 })
    }

    /// It says this to the requests, which are counted from 0. Spans that it does not thank for are not kept.
    pub(crate) fn saying(say: impl Fn(usize) -> Say + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (say, kept) = (Arc::new(say), Arc::clone(&seen));
        // It ends with the process: nothing is lost by that.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (say, kept) = (Arc::clone(&say), Arc::clone(&kept));
                std::thread::spawn(move || serve(stream, &*say, &kept));
            }
        });
        Self { address, seen }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        self.seen.lock().unwrap().spans.clone()
    }

    /// The spans of this name.
    pub(crate) fn named(&self, name: &str) -> Vec<Span> {
        let mut all = self.spans();
        all.retain(|span| span.name == name);
        all
    }

    /// The heads of all requests.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.seen.lock().unwrap().heads.clone()
    }
}

fn serve(stream: TcpStream, say: &(dyn Fn(usize) -> Say + Send + Sync), seen: &Mutex<Seen>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let length = head.lines().find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length: ")?
                .parse()
                .ok()
        });
        let mut body = vec![0; length.unwrap_or(0)];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let spans = read(&body);
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.heads.push(head);
            seen.heads.len() - 1
        };
        let answer = match say(number) {
            Say::Taken { rejected } => {
                let kept = spans.len() - usize::from(rejected).min(spans.len());
                seen.lock()
                    .unwrap()
                    .spans
                    .extend(spans.into_iter().take(kept));
                // partial_success { rejected_spans, error_message }
                let partly = [8, rejected, 18, 3, b'b', b'a', b'd'];
                let body = match rejected {
                    0 => Vec::new(),
                    _ => [&[10, 7], &partly[..]].concat(),
                };
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                [head.into_bytes(), body].concat()
            }
            Say::Status(line) => {
                format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\n\r\n").into_bytes()
            }
            Say::Nothing => {
                // Until the other side has had enough.
                let _ = reader.read_line(&mut String::new());
                return;
            }
        };
        if reader.get_mut().write_all(&answer).is_err() {
            return;
        }
    }
}

/// A field of a message.
enum Part<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Part<'a> {
    fn bytes(&self) -> &'a [u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Number(_) => panic!("a number where bytes are expected"),
        }
    }

    fn number(&self) -> u64 {
        match self {
            Self::Number(number) => *number,
            Self::Bytes(_) => panic!("bytes where a number is expected"),
        }
    }

    fn text(&self) -> String {
        String::from_utf8(self.bytes().to_vec()).unwrap()
    }

    fn hex(&self) -> String {
        let hex = |digit: u8| char::from_digit(digit.into(), 16).unwrap();
        let bytes = self.bytes().iter();
        bytes
            .flat_map(|byte| [hex(byte >> 4), hex(byte & 15)])
            .collect()
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            break;
        }
    }
    number
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(count);
    *bytes = rest;
    taken
}

/// The fields of a message, with their numbers.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Part<'_>)> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let part = match key & 7 {
            0 => Part::Number(varint(&mut bytes)),
            1 => Part::Number(u64::from_le_bytes(take(&mut bytes, 8).try_into().unwrap())),
            2 => {
                let length = usize::try_from(varint(&mut bytes)).unwrap();
                Part::Bytes(take(&mut bytes, length))
            }
            5 => {
                let number = u32::from_le_bytes(take(&mut bytes, 4).try_into().unwrap());
                Part::Number(number.into())
            }
            other => panic!("there is no wire type {other}"),
        };
        all.push((key >> 3, part));
    }
    all
}

fn key_value(bytes: &[u8]) -> (String, String) {
    let (mut key, mut value) = (String::new(), String::new());
    for (number, part) in fields(bytes) {
        match number {
            1 => key = part.text(),
            2 => {
                for (kind, part) in fields(part.bytes()) {
                    value = match kind {
                        1 => part.text(),
                        3 => part.number().to_string(),
                        other => panic!("an attribute of kind {other}"),
                    };
                }
            }
            other => panic!("a KeyValue with {other}"),
        }
    }
    (key, value)
}

/// ExportTraceServiceRequest
pub(crate) fn read(body: &[u8]) -> Vec<Span> {
    let mut spans = Vec::new();
    for (number, resource_spans) in fields(body) {
        assert_eq!(number, 1, "resource_spans");
        let mut resource = BTreeMap::new();
        for (number, part) in fields(resource_spans.bytes()) {
            match number {
                1 => resource.extend(
                    fields(part.bytes())
                        .iter()
                        .map(|(_, one)| key_value(one.bytes())),
                ),
                2 => spans.extend(scope_spans(part.bytes())),
                other => panic!("ResourceSpans with {other}"),
            }
        }
        for span in &mut spans {
            span.service.clone_from(&resource["service.name"]);
        }
    }
    spans
}

fn scope_spans(bytes: &[u8]) -> Vec<Span> {
    let (mut scope, mut spans) = (String::new(), Vec::new());
    for (number, part) in fields(bytes) {
        match number {
            1 => {
                let name = fields(part.bytes())
                    .into_iter()
                    .find(|(number, _)| *number == 1);
                scope = name.unwrap().1.text();
            }
            2 => spans.push(span(part.bytes())),
            other => panic!("ScopeSpans with {other}"),
        }
    }
    for span in &mut spans {
        span.scope.clone_from(&scope);
    }
    spans
}

fn span(bytes: &[u8]) -> Span {
    let mut span = Span::default();
    for (number, part) in fields(bytes) {
        match number {
            1 => span.trace = part.hex(),
            2 => span.id = part.hex(),
            3 => span.state = part.text(),
            4 => span.parent = part.hex(),
            5 => span.name = part.text(),
            6 => span.kind = part.number(),
            7 => span.start = part.number(),
            8 => span.end = part.number(),
            9 => span.attributes.extend([key_value(part.bytes())]),
            15 => {
                let (mut code, mut text) = (0, String::new());
                for (number, part) in fields(part.bytes()) {
                    match number {
                        2 => text = part.text(),
                        3 => code = part.number(),
                        other => panic!("a Status with {other}"),
                    }
                }
                span.status = Some((code, text));
            }
            16 => span.flags = part.number(),
            other => panic!("a Span with {other}"),
        }
    }
    assert_eq!((span.trace.len(), span.id.len()), (32, 16));
    span
}
