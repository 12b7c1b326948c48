//! Deliveries as messages: how they are split, and their answers. No IO.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use crate::delivery::latest_key;
use crate::nats::wire::{self, MultiPush, MultiPushAnswer, Push, Recipients};
use crate::{
    Delivered, Delivery, MAX_LATEST_KEY, RawSid, Receivers, RemoteError, RemoteErrorKind, code,
};

/// A message with its receivers is split above this, unless the body alone is larger.
const MESSAGE_SIZE: usize = 256 * 1024;
/// Room for receivers beside a body that leaves none within [`MESSAGE_SIZE`].
const LEAST_ROOM: usize = 64 * 1024;
/// The longest receiver: an audience with its longest name, and a member who does not get it. A uid is shorter.
const RECEIVER: usize = 1024;
/// Tags, lengths and numbers of a message, and more than they ever take; and the key of the newest one.
const OVERHEAD: usize = 64 + MAX_LATEST_KEY;

/// How many bytes of receivers one message takes. An error if there is no room for any.
pub(super) fn room(route: &str, body: &[u8], max_payload: usize) -> Result<usize, RemoteError> {
    let content = body.len() + route.len();
    let left = max_payload.saturating_sub(content + OVERHEAD);
    if left < RECEIVER {
        let text = format!(
            "the message has {content} bytes with its route, and the limit of NATS is {}",
            max_payload.saturating_sub(RECEIVER + OVERHEAD)
        );
        let kind = RemoteErrorKind::Refused;
        return Err(RemoteError::of(kind, code::INTERNAL, text));
    }
    Ok(MESSAGE_SIZE
        .saturating_sub(content)
        .max(LEAST_ROOM)
        .min(left))
}

/// The messages of one delivery: normally one. All of them are no longer than NATS takes.
pub(super) fn parts(
    delivery: &Delivery,
    max_payload: usize,
) -> Result<Vec<MultiPush>, RemoteError> {
    let part = |uids, sids, everybody: Recipients| MultiPush {
        route: delivery.route.to_string(),
        data: delivery.body.clone(),
        uids,
        sids,
        everybody: everybody as i32,
        latest: (delivery.latest.as_deref().and_then(latest_key))
            .unwrap_or_default()
            .to_owned(),
        ..MultiPush::default()
    };
    let room = room(&delivery.route, &delivery.body, max_payload)?;
    Ok(match &delivery.to {
        Receivers::All { bound_only } => {
            let recipients = if *bound_only {
                Recipients::Bound
            } else {
                Recipients::All
            };
            vec![part(Vec::new(), Vec::new(), recipients)]
        }
        Receivers::Audience {
            key,
            except,
            name_missing,
        } => vec![MultiPush {
            audience: key.as_str().to_owned(),
            except: except.as_deref().unwrap_or_default().to_owned(),
            name_missing: *name_missing,
            ..part(Vec::new(), Vec::new(), Recipients::No)
        }],
        // A number takes at most ten bytes.
        Receivers::Sids(sids) => sids
            .chunks(room / 10)
            .map(|sids| {
                let sids = sids.iter().map(|sid| sid.get()).collect();
                part(Vec::new(), sids, Recipients::No)
            })
            .collect(),
        Receivers::Uids(uids) => chunks(uids, room)
            .into_iter()
            .map(|uids| part(uids, Vec::new(), Recipients::No))
            .collect(),
    })
}

/// Users in groups that take no more than `room` bytes in a message.
fn chunks(uids: &[Arc<str>], room: usize) -> Vec<Vec<String>> {
    let mut chunks = Vec::new();
    let (mut chunk, mut size) = (Vec::new(), 0);
    for uid in uids {
        // Tag and length take at most three bytes.
        if size + uid.len() + 3 > room {
            chunks.push(std::mem::take(&mut chunk));
            size = 0;
        }
        size += uid.len() + 3;
        chunk.push(uid.to_string());
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    chunks
}

/// The message for one user, as Pitaya servers know it.
pub(super) fn plain(delivery: &Delivery, uid: &str, not_for_shaddock: bool) -> Bytes {
    wire::encode(&Push {
        route: delivery.route.to_string(),
        uid: uid.to_owned(),
        data: delivery.body.clone(),
        not_for_shaddock,
    })
}

/// Reads the answer of a frontend.
pub(super) fn from_wire(answer: MultiPushAnswer) -> Delivered {
    Delivered {
        queued: usize::try_from(answer.queued).unwrap_or(usize::MAX),
        missing_uids: answer.missing_uids.into_iter().map(Arc::from).collect(),
        missing_sids: answer
            .missing_sids
            .into_iter()
            .filter_map(RawSid::new)
            .collect(),
        refused: (!answer.refused.is_empty()).then(|| answer.refused.into()),
        missing: usize::try_from(answer.missing).unwrap_or(usize::MAX),
        no_audience: answer.no_audience,
        ..Delivered::default()
    }
}

/// The answer to the sender. `watched`: the sender will be notified if one of the users is bound here.
pub(super) fn to_wire(delivered: &Delivered, watched: bool) -> MultiPushAnswer {
    MultiPushAnswer {
        queued: delivered.queued as u64,
        missing_uids: delivered
            .missing_uids
            .iter()
            .map(ToString::to_string)
            .collect(),
        missing_sids: delivered.missing_sids.iter().map(|sid| sid.get()).collect(),
        refused: delivered.refused.as_deref().unwrap_or_default().to_owned(),
        watched,
        missing: delivered.missing as u64,
        no_audience: delivered.no_audience,
    }
}

/// The reply as bytes, no longer than NATS takes. Missing members of an audience for whose names there is no room are only counted. (Missing
/// users and sessions of other receivers are part of the message that is replied to, so there is room.)
pub(super) fn reply_within(mut answer: MultiPushAnswer, max_payload: usize) -> Bytes {
    let length = answer.encoded_len();
    if length > max_payload {
        let mut over = length - max_payload;
        while over > 0
            && let Some(uid) = answer.missing_uids.pop()
        {
            // With a tag and a length of at least one byte each.
            over = over.saturating_sub(uid.len() + 2);
        }
    }
    wire::encode(&answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AudienceKey;

    fn delivery(body: usize, to: Receivers) -> Delivery {
        Delivery {
            route: "onChat".into(),
            body: vec![b'x'; body].into(),
            latest: Some("k".repeat(MAX_LATEST_KEY).into()),
            to,
        }
    }

    /// The default limit of NATS for a message.
    const MAX_PAYLOAD: usize = 1024 * 1024;

    fn some_uids(n: usize) -> Arc<[Arc<str>]> {
        (0..n).map(|i| Arc::from(format!("{i:0>100}"))).collect()
    }

    #[test]
    fn a_thousand_users_are_one_message_and_a_million_bytes_are_more() {
        let uids: Arc<[Arc<str>]> = (0..1000).map(|i| Arc::from(format!("user-{i}"))).collect();
        let one = parts(
            &delivery(100, Receivers::Uids(Arc::clone(&uids))),
            MAX_PAYLOAD,
        )
        .unwrap();
        assert_eq!((one.len(), one[0].uids.len()), (1, 1000));

        let many = delivery(100, Receivers::Uids(some_uids(10_000)));
        let many = parts(&many, MAX_PAYLOAD).unwrap();
        assert!(many.len() > 3);
        assert_eq!(many.iter().map(|p| p.uids.len()).sum::<usize>(), 10_000);
        for part in many {
            assert!(wire::encode(&part).len() <= MESSAGE_SIZE + 1024);
        }
        assert!(
            parts(&delivery(1, Receivers::Uids([].into())), MAX_PAYLOAD)
                .unwrap()
                .is_empty()
        );
    }

    /// Whatever its length: either every part of a message fits, or none is sent.
    #[test]
    fn a_message_of_any_length_fits_in_all_its_parts_or_is_refused() {
        let sids: Arc<[RawSid]> = (1..3000)
            .filter_map(|n| RawSid::new(u64::MAX - n))
            .collect();
        for max in [4096, 65_536, MAX_PAYLOAD] {
            let mut refused = 0;
            for short_of in (0..2000).step_by(7).chain([max / 2, max / 4, max - 10]) {
                for to in [
                    Receivers::Uids(some_uids(500)),
                    Receivers::Sids(Arc::clone(&sids)),
                    Receivers::All { bound_only: true },
                    Receivers::Audience {
                        key: AudienceKey::topic(&"x".repeat(256)).unwrap(),
                        except: Some("x".repeat(256).into()),
                        name_missing: true,
                    },
                ] {
                    match parts(&delivery(max.saturating_sub(short_of), to), max) {
                        Ok(parts) => {
                            for part in parts {
                                assert!(wire::encode(&part).len() <= max, "{short_of} of {max}");
                            }
                        }
                        Err(error) => {
                            assert_eq!(error.kind(), RemoteErrorKind::Refused);
                            assert!(short_of < 1300, "{short_of}: {error}");
                            refused += 1;
                        }
                    }
                }
            }
            assert!(refused > 0);
        }
    }
}
