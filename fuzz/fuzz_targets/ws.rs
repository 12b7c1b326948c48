//! WebSocket frames: any split gives the same events; messages and memory are bounded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shaddock_fuzz::{Choices, bounded, pieces};
use shaddock_net::{WsError, WsEvent, WsReader};

fn read(pieces: &[&[u8]], max: usize) -> (Vec<WsEvent>, Option<WsError>) {
    let mut reader = WsReader::default();
    let mut events = Vec::new();
    for piece in pieces {
        let mut frames = reader.take(&mut piece.to_vec(), max);
        loop {
            match reader.next(&mut frames, max) {
                Ok(Some(event)) => {
                    let closed = matches!(event, WsEvent::Close(_));
                    events.push(event);
                    if closed {
                        return (events, None);
                    }
                }
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
        assert!(frames.is_empty(), "no event, but bytes are left");
    }
    (events, None)
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices(data);
    let max = usize::from(choices.short());
    let sizes = choices.bytes();
    let bytes = choices.rest();
    let whole = bounded(4096 + 64 * bytes.len(), || read(&[bytes], max));
    assert_eq!(
        whole,
        bounded(8192 + 80 * bytes.len(), || read(&pieces(bytes, sizes), max))
    );
    for event in &whole.0 {
        match event {
            WsEvent::Message(message) => assert!(message.len() <= max),
            WsEvent::Ping(payload) => assert!(payload.len() <= 125),
            _ => {}
        }
    }
});
