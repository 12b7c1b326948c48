//! Pushes of which the newest of a key is enough: while the client does not take them, the newest one goes in the place of an older one.

use super::{Driver, Intake, Queue, SendError, bytes_u32};
use bytes::Bytes;
use std::sync::Arc;

impl Queue {
    /// While the client cannot take it, the package goes in the place of the one before it, at the end of what waits. One that the driver has taken
    /// is not taken back. The caller drops the rest of `package` without the lock.
    pub(super) fn push_latest(
        &mut self,
        key: &Arc<str>,
        package: &mut Bytes,
    ) -> Result<(), SendError> {
        let is_live = match self.resume.as_deref() {
            Some(ledger) => ledger.is_sending(),
            None => true,
        };
        // Also while the driver polls: it has taken what the socket did not take.
        let waits = !is_live || self.driver == Driver::Blocked || self.in_flight > 0;
        let has_room = self.more.as_ref().is_none_or(|more| more.has_room(key));
        // The parts of a message that is several packages belong together.
        if self.intake != Intake::Open
            || !waits
            || !has_room
            || package.len() > self.limit as usize
            || !super::resumable::is_one_data(package)
        {
            return self.push(package);
        }
        let old = self.more.as_ref().map_or(0, |more| more.length_of(key));
        let waiting = self.waiting() - old + package.len();
        if is_live && self.driver != Driver::Blocked && waiting > self.limit as usize {
            return Err(SendError::Busy);
        }
        let old = self.take_back(key, is_live);
        if self.resume.is_some() {
            self.push_one(package, Some(key))?;
        } else {
            self.admit(package.len())?;
            self.append_latest(key, package);
        }
        if let Some(old) = old {
            *package = old;
        }
        Ok(())
    }

    /// Takes back the package of this key that waits. What is queued for a session that is counted is also kept: only what is in both can be taken back.
    fn take_back(&mut self, key: &str, is_live: bool) -> Option<Bytes> {
        let is_queued = self.more.as_ref().is_some_and(|more| more.has(key));
        if is_live && !is_queued {
            return None;
        }
        if let Some(ledger) = self.resume.as_deref_mut()
            && !ledger.take_back(key)
        {
            return None;
        }
        let old = self.more.as_mut()?.take_back(key)?;
        self.queued -= bytes_u32(old.len());
        Some(old)
    }

    pub(super) fn append_latest(&mut self, key: &Arc<str>, package: &mut Bytes) {
        self.queued += bytes_u32(package.len());
        self.messages += 1;
        let at = self.own.len();
        let more = self.more.get_or_insert_default();
        more.push_latest(key, at, std::mem::take(package));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::more::MAX_KEYS;
    use crate::{Drained, Flush, Next, Offer, Outbox, Room};
    use bytes::Buf;
    use std::task::Waker;

    fn data(text: &str) -> Bytes {
        let mut package = vec![4, 0, 0, u8::try_from(text.len()).unwrap()];
        package.extend_from_slice(text.as_bytes());
        package.into()
    }

    fn offer(outbox: &Outbox, key: &str, package: Bytes) -> Result<Room, SendError> {
        let how = Offer {
            latest: Some(&key.into()),
            ..Offer::default()
        };
        outbox.offer(package, how)
    }

    fn take(outbox: &Outbox) -> String {
        let mut drained = Drained::default();
        assert_eq!(outbox.take(&mut drained), Next::Continue);
        let mut bytes = drained.copy_to_bytes(drained.remaining());
        outbox.written(bytes.len());
        let mut texts = Vec::new();
        while bytes.has_remaining() {
            let head = bytes.split_to(4);
            texts.push(String::from_utf8(bytes.split_to(usize::from(head[3])).to_vec()).unwrap());
        }
        texts.join(" ")
    }

    /// A connection whose socket is full.
    fn blocked(limit: usize) -> Outbox {
        let outbox = Outbox::new(limit);
        outbox.begin_poll(Waker::noop());
        assert!(!outbox.end_poll(Flush::Blocked));
        outbox
    }

    #[test]
    fn of_what_a_slow_client_has_not_taken_the_newest_of_a_key_stays() {
        let outbox = blocked(1024);
        let latest = |name: &str, text| offer(&outbox, name, data(text)).unwrap();
        latest("a", "a1");
        latest("b", "b1");
        outbox.push(data("x")).unwrap();
        outbox.push(data(&"y".repeat(70))).unwrap();
        latest("a", "a2");
        outbox.push(data("z")).unwrap();
        latest("c", "c1");
        latest("b", "b2");
        latest("a", "a3");
        let expected = format!("x {} z c1 b2 a3", "y".repeat(70));
        let queued: usize = expected.split(' ').map(|text| 4 + text.len()).sum();
        assert_eq!(outbox.stats().queued_bytes, queued);
        assert_eq!(take(&outbox), expected);
        assert_eq!(outbox.stats().queued_bytes, 0);
        // Data that the driver has taken are on their way.
        latest("a", "a4");
        assert_eq!(take(&outbox), "a4");
    }

    #[test]
    fn a_client_that_reads_gets_all() {
        let outbox = Outbox::new(1024);
        for text in ["a1", "a2"] {
            offer(&outbox, "a", data(text)).unwrap();
        }
        assert_eq!(take(&outbox), "a1 a2");
    }

    #[test]
    fn one_in_the_place_of_another_needs_no_more_room() {
        let outbox = blocked(100);
        outbox.push(data(&"x".repeat(60))).unwrap();
        for n in 0..50 {
            let text = format!("{n:030}");
            offer(&outbox, "a", data(&text)).unwrap();
        }
        assert_eq!(outbox.stats().queued_bytes, 98);
        let other = offer(&outbox, "b", data("b"));
        assert_eq!(other, Err(SendError::SlowClient));
    }

    #[test]
    fn other_bytes_and_large_packages_are_queued_unchanged() {
        let outbox = blocked(1 << 20);
        let two = [data("1"), data("2")].concat();
        for _ in 0..2 {
            offer(&outbox, "a", two.clone().into()).unwrap();
        }
        assert_eq!(take(&outbox), "1 2 1 2");
        for round in 0..2 {
            for n in 0..MAX_KEYS + 3 {
                let key = n.to_string();
                offer(&outbox, &key, data(&round.to_string())).unwrap();
            }
        }
        let zeros = take(&outbox).split(' ').filter(|text| *text == "0").count();
        assert_eq!(zeros, 3);
        let long = vec![4; (1 << 20) + 1];
        let refused = offer(&outbox, "a", long.into());
        assert!(matches!(refused, Err(SendError::TooLarge { .. })));
        outbox.abort();
        let refused = offer(&outbox, "a", data("1"));
        assert_eq!(refused, Err(SendError::Closed));
    }
}
