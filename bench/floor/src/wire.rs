//! Packages, messages and the three routes. Only what the load tester sends; anything else closes the connection.
//!
//! This is not the codec of `shaddock-protocol` on purpose: the floor shares no code with what is measured against it.

const HANDSHAKE: u8 = 1;
const HANDSHAKE_ACK: u8 = 2;
const HEARTBEAT: u8 = 3;
const DATA: u8 = 4;

const REQUEST: u8 = 0;
const RESPONSE: u8 = 4;
const PUSH: u8 = 6;

/// Seconds. Long, so that heartbeats are no part of what is measured.
const HANDSHAKE_ANSWER: &[u8] = br#"{"code":200,"sys":{"heartbeat":60}}"#;
const DONE: &[u8] = br#"{"code":200}"#;
const PUSH_ROUTE: &[u8] = b"onPush";

/// What to do with the client.
pub(crate) enum Verdict {
    /// It said something that the floor does not understand, or goodbye.
    Close,
}

/// What a read asked for that concerns more than its own answer.
pub(crate) struct Requests {
    /// The client wants the pushes.
    pub(crate) bind: bool,
    /// Bodies to push to all bound clients.
    pub(crate) pushes: Vec<Vec<u8>>,
}

/// Answers every complete package of `data` into `output` and returns how many bytes they took.
pub(crate) fn answer_all(
    data: &[u8],
    output: &mut Vec<u8>,
    requests: &mut Requests,
) -> Result<usize, Verdict> {
    let mut taken = 0;
    while let Some(&[kind, high, middle, low]) = data[taken..].first_chunk() {
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        let Some(body) = data[taken + 4..].get(..length) else {
            break;
        };
        match kind {
            HANDSHAKE => put_package(HANDSHAKE, &[HANDSHAKE_ANSWER], output),
            HANDSHAKE_ACK | HEARTBEAT => put_package(HEARTBEAT, &[], output),
            DATA => answer_message(body, output, requests)?,
            _ => return Err(Verdict::Close),
        }
        taken += 4 + length;
    }
    Ok(taken)
}

/// Flag, id in base 128, length of the route, route, body.
fn answer_message(
    message: &[u8],
    output: &mut Vec<u8>,
    requests: &mut Requests,
) -> Result<(), Verdict> {
    let (&flag, rest) = message.split_first().ok_or(Verdict::Close)?;
    let id_length = rest
        .iter()
        .take(10)
        .position(|byte| byte & 0x80 == 0)
        .ok_or(Verdict::Close)?
        + 1;
    let (id, rest) = rest.split_at(id_length);
    let (&route_length, rest) = rest.split_first().ok_or(Verdict::Close)?;
    let (route, body) = rest
        .split_at_checked(usize::from(route_length))
        .ok_or(Verdict::Close)?;
    if flag != REQUEST {
        return Err(Verdict::Close);
    }
    if route.ends_with(b".echo") {
        put_package(DATA, &[&[RESPONSE], id, body], output);
    } else if route.ends_with(b".bind") {
        requests.bind = true;
        put_package(DATA, &[&[RESPONSE], id, DONE], output);
    } else if route.ends_with(b".push") {
        requests.pushes.push(body.to_vec());
        put_package(DATA, &[&[RESPONSE], id, DONE], output);
    } else {
        return Err(Verdict::Close);
    }
    Ok(())
}

/// A push of `body`, as one package.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the route is six bytes long"
)]
pub(crate) fn put_push(body: &[u8], output: &mut Vec<u8>) {
    put_package(
        DATA,
        &[&[PUSH, PUSH_ROUTE.len() as u8], PUSH_ROUTE, body],
        output,
    );
}

fn put_package(kind: u8, parts: &[&[u8]], output: &mut Vec<u8>) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    // Nothing longer than one read is ever answered, so 24 bits are enough.
    let [.., high, middle, low] = length.to_be_bytes();
    output.extend_from_slice(&[kind, high, middle, low]);
    for part in parts {
        output.extend_from_slice(part);
    }
}
