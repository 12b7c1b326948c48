use super::*;

const MASK: [u8; 4] = [1, 2, 3, 4];

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match u16::try_from(payload.len()) {
        Ok(short) if short < 126 => bytes.push(0x80 | u8::try_from(short).unwrap()),
        Ok(medium) => {
            bytes.push(0x80 | 0x7e);
            bytes.extend_from_slice(&medium.to_be_bytes());
        }
        Err(_) => {
            bytes.push(0x80 | 0x7f);
            bytes.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(b, k)| b ^ k));
    bytes
}

fn read(bytes: &[u8], step: usize, max: usize) -> Result<Vec<WsEvent>, WsError> {
    let mut reader = WsReader::default();
    let mut events = Vec::new();
    for chunk in bytes.chunks(step) {
        let mut frames = reader.take(&mut chunk.to_vec(), max);
        while let Some(event) = reader.next(&mut frames, max)? {
            events.push(event);
        }
        assert!(frames.is_empty(), "what take returned is read to its end");
    }
    Ok(events)
}

#[test]
fn messages_fragments_and_controls_for_every_split() {
    let mut bytes = frame(0x82, b"hello");
    bytes.extend(frame(0x01, b"fra"));
    bytes.extend(frame(0x89, b"ping"));
    bytes.extend(frame(0x00, b"gm"));
    bytes.extend(frame(0x80, b"ent"));
    bytes.extend(frame(0x82, &[7; 300]));
    bytes.extend(frame(0x8a, b""));
    bytes.extend(frame(0x88, &1001u16.to_be_bytes()));
    let expected = [
        WsEvent::Message(Bytes::from_static(b"hello")),
        WsEvent::Ping(Bytes::from_static(b"ping")),
        WsEvent::Message(Bytes::from_static(b"fragment")),
        WsEvent::Message(Bytes::from(vec![7; 300])),
        WsEvent::Pong,
        WsEvent::Close(Some(1001)),
    ];
    for step in [1, 2, 3, 7, 13, bytes.len()] {
        assert_eq!(read(&bytes, step, 1000).unwrap(), expected, "step {step}");
    }
}

#[test]
fn refusals() {
    let mut unmasked = frame(0x82, b"x");
    unmasked[1] &= 0x7f;
    let long_ping = frame(0x89, &[0; 126]);
    let cases: [(&[u8], WsError); 7] = [
        (&unmasked, WsError::Unmasked),
        (&frame(0xc2, b"x"), WsError::Reserved),
        (&frame(0x83, b"x"), WsError::Reserved),
        (&long_ping, WsError::BadControl),
        (&frame(0x09, b"x"), WsError::BadControl),
        (&frame(0x80, b"x"), WsError::BadFragment),
        (&frame(0x82, &[0; 101]), WsError::TooLong { max: 100 }),
    ];
    for (bytes, error) in cases {
        assert_eq!(read(bytes, bytes.len(), 100), Err(error));
    }
    let mut nested = frame(0x02, b"a");
    nested.extend(frame(0x82, b"b"));
    assert_eq!(read(&nested, 3, 100), Err(WsError::BadFragment));
    let mut endless = frame(0x02, &[0; 60]);
    endless.extend(frame(0x00, &[0; 60]));
    assert_eq!(read(&endless, 9, 100), Err(WsError::TooLong { max: 100 }));
}

#[test]
fn a_small_fragment_does_not_keep_a_large_chunk() {
    let mut reader = WsReader::default();
    let mut chunk = frame(0x82, &[0; 4000]);
    chunk.extend(frame(0x02, b"ab"));
    let mut frames = reader.take(&mut chunk, 4000);
    assert!(reader.next(&mut frames, 4000).unwrap().is_some());
    assert_eq!(reader.next(&mut frames, 4000), Ok(None));
    let message = reader.cut.as_ref().and_then(|cut| cut.message.as_ref());
    assert!(message.unwrap().capacity() < 100);
    let mut frames = reader.take(&mut frame(0x80, b"c"), 4000);
    let message = reader.next(&mut frames, 4000).unwrap();
    assert_eq!(message, Some(WsEvent::Message(Bytes::from_static(b"abc"))));
    assert!(reader.cut.is_none());
}

/// Both ways to read a short head say the same.
#[test]
fn short_heads_are_heads() {
    for first in 0..=255_u8 {
        for length in 0..=255_u8 {
            let bytes = [first, length, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0];
            let Some(short) = Head::short(&bytes) else {
                continue;
            };
            let mut cursor = Cursor::new(&bytes[..]);
            let (header, payload) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
            assert_eq!(format!("{:?}", short.header), format!("{header:?}"));
            assert_eq!(short.payload as u64, payload);
            assert_eq!(short.length as u64, cursor.position());
        }
    }
}

/// The messages of one chunk are slices of one copy.
#[test]
fn whole_frames_are_not_copied_apart() {
    let mut chunk = frame(0x82, b"one");
    chunk.extend(frame(0x82, b"two"));
    let mut reader = WsReader::default();
    let mut frames = reader.take(&mut chunk, 100);
    let copy = frames.as_ptr_range();
    for _ in 0..2 {
        let Ok(Some(WsEvent::Message(message))) = reader.next(&mut frames, 100) else {
            panic!("a message");
        };
        assert!(copy.contains(&message.as_ptr()));
    }
    assert!(reader.cut.is_none());
}

#[test]
fn an_announced_length_is_judged_before_the_body() {
    let mut head = vec![0x82, 0x80 | 0x7f];
    head.extend_from_slice(&u64::MAX.to_be_bytes());
    head.extend_from_slice(&MASK);
    assert_eq!(read(&head, 1, 100), Err(WsError::TooLong { max: 100 }));
}

#[test]
fn heads_and_close_frames() {
    let mut head = [0; MAX_HEAD];
    assert_eq!(binary_head(5, &mut head), 2);
    assert_eq!(head[..2], [0x82, 5]);
    assert_eq!(binary_head(70_000, &mut head), 10);
    let mut out = BytesMut::new();
    put_close(1000, &"é".repeat(100), &mut out);
    assert_eq!(out[..4], [0x88, 124, 0x03, 0xe8], "cut at a character");
    assert!(std::str::from_utf8(&out[4..]).is_ok());
}
