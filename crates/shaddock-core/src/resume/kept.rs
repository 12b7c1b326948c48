//! DATA packages that a client has not acknowledged, in the order in which they were accepted.

use crate::pool;
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::sync::Arc;

/// Shared packages up to this length are copied: as in the outbox, a pointer to them would cost more.
const COPY_MAX: usize = 64;

/// Places allocated when the first package arrives: approximately the packages between two acknowledgements.
const PLACES: usize = 32;

/// Packages with consecutive numbers. Owns no memory while empty: of most sessions the client has acknowledged everything.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    held: Option<Box<Held>>,
    /// The number of the last package that was removed.
    before: u64,
}

#[derive(Debug, Default)]
struct Held {
    list: VecDeque<Item>,
    /// The bytes of all [`Item::Own`], one after another.
    own: BytesMut,
    bytes: usize,
}

#[derive(Debug)]
enum Item {
    /// This number of bytes of `own`.
    Own(usize),
    Shared(Bytes),
    Latest(Box<Latest>),
}

/// Counts with its key: the sender chooses how long that is.
#[derive(Debug)]
struct Latest {
    key: Arc<str>,
    package: Bytes,
}

impl Latest {
    fn len(&self) -> usize {
        self.key.len() + self.package.len()
    }
}

/// A kept package.
pub(crate) enum Piece<'a> {
    Own(&'a [u8]),
    Shared(&'a Bytes),
}

impl Kept {
    /// The number of the last package.
    pub(crate) fn last(&self) -> u64 {
        self.before + self.len() as u64
    }

    /// The number of the last package that was removed, acknowledged or discarded.
    pub(crate) const fn before(&self) -> u64 {
        self.before
    }

    pub(crate) fn len(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.list.len())
    }

    /// The bytes of all packages.
    pub(crate) fn bytes(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.bytes)
    }

    fn held(&mut self) -> &mut Held {
        self.held.get_or_insert_with(|| {
            Box::new(Held {
                list: VecDeque::with_capacity(PLACES),
                ..Held::default()
            })
        })
    }

    pub(crate) fn add_own(&mut self, package: &[u8]) {
        self.held().add_own(package);
    }

    pub(crate) fn add_shared(&mut self, package: &Bytes) {
        if package.len() <= COPY_MAX {
            self.add_own(package);
        } else {
            let item = Item::Shared(package.clone());
            self.held().add(item, package.len());
        }
    }

    /// Adds a package of which the newest of its key is enough. [`take_back`](Self::take_back) comes before it.
    pub(crate) fn add_latest(&mut self, key: &Arc<str>, package: &Bytes) {
        let latest = Latest {
            key: Arc::clone(key),
            package: package.clone(),
        };
        let len = latest.len();
        self.held().add(Item::Latest(Box::new(latest)), len);
    }

    /// Takes the newest package of this key out, if its number is above `fixed`; the numbers of those behind it become smaller by one.
    pub(crate) fn take_back(&mut self, key: &str, fixed: u64) -> Option<Bytes> {
        let fixed = usize::try_from(fixed.saturating_sub(self.before)).unwrap_or(usize::MAX);
        self.held.as_mut()?.take_back(key, fixed)
    }

    /// Removes the oldest one. Drop the returned value without a lock.
    pub(crate) fn forget_first(&mut self) -> Option<Bytes> {
        let held = self.held.as_mut()?;
        let item = held.list.pop_front()?;
        self.before += 1;
        let (len, package) = match item {
            Item::Own(len) => {
                held.own.advance(len);
                (len, None)
            }
            Item::Shared(package) => (package.len(), Some(package)),
            Item::Latest(latest) => (latest.len(), Some(latest.package)),
        };
        held.bytes -= len;
        if held.list.is_empty() {
            let mut own = std::mem::take(&mut held.own);
            self.held = None;
            own.clear();
            // The capacity does not include the part that was advanced over.
            if !own.try_reclaim(pool::MAX_CAPACITY + 1) {
                pool::put(own);
            }
        }
        package
    }

    /// All packages, oldest first.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        self.held.iter().flat_map(|held| held.pieces())
    }
}

impl Held {
    fn add_own(&mut self, package: &[u8]) {
        if self.own.capacity() == 0 {
            self.own = pool::lend().keep();
        }
        self.own.extend_from_slice(package);
        self.add(Item::Own(package.len()), package.len());
    }

    fn add(&mut self, item: Item, bytes: usize) {
        self.list.push_back(item);
        self.bytes += bytes;
    }

    fn take_back(&mut self, key: &str, fixed: usize) -> Option<Bytes> {
        let is_its = |item: &Item| matches!(item, Item::Latest(latest) if *latest.key == *key);
        let place = self.list.iter().skip(fixed).rposition(is_its)?;
        match self.list.remove(fixed + place)? {
            Item::Latest(latest) => {
                self.bytes -= latest.len();
                Some(latest.package)
            }
            _ => None,
        }
    }

    fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let mut own = &self.own[..];
        self.list.iter().map(move |item| match item {
            Item::Own(len) => {
                let (package, rest) = own.split_at(*len);
                own = rest;
                Piece::Own(package)
            }
            Item::Shared(package) => Piece::Shared(package),
            Item::Latest(latest) => Piece::Shared(&latest.package),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Part of every resumable session.
    #[test]
    fn is_small() {
        assert_eq!(size_of::<Kept>(), 2 * size_of::<u64>());
    }

    fn texts(kept: &Kept) -> Vec<Vec<u8>> {
        let bytes = |piece| match piece {
            Piece::Own(bytes) => bytes.to_vec(),
            Piece::Shared(bytes) => bytes.to_vec(),
        };
        kept.pieces().map(bytes).collect()
    }

    #[test]
    fn packages_stay_in_order_whatever_they_are_kept_in() {
        let mut kept = Kept::default();
        let long = |n: u8| Bytes::from(vec![n; COPY_MAX + 1]);
        kept.add_own(b"one");
        kept.add_shared(&long(2));
        kept.add_shared(&Bytes::from_static(b"three"));
        kept.add_latest(&"k".into(), &Bytes::from_static(b"four"));
        assert_eq!(texts(&kept), [&b"one"[..], &long(2), b"three", b"four"]);
        assert_eq!((kept.before(), kept.last()), (0, 4));
        assert_eq!(kept.forget_first(), None);
        assert_eq!(kept.forget_first(), Some(long(2)));
        assert_eq!(texts(&kept), [&b"three"[..], b"four"]);
        assert_eq!((kept.before(), kept.last(), kept.bytes()), (2, 4, 10));
        kept.forget_first();
        kept.forget_first();
        assert_eq!(
            (kept.forget_first(), kept.last(), kept.bytes()),
            (None, 4, 0)
        );
        assert!(kept.held.is_none());
    }

    #[test]
    fn only_the_newest_of_a_key_is_kept_unless_its_number_is_fixed() {
        let mut kept = Kept::default();
        let package = |text: &'static str| Bytes::from_static(text.as_bytes());
        let add = |kept: &mut Kept, key: &str, text, fixed| {
            let old = kept.take_back(key, fixed);
            kept.add_latest(&key.into(), &package(text));
            old
        };
        add(&mut kept, "a", "a1", 0);
        add(&mut kept, "b", "b1", 0);
        kept.add_own(b"x");
        assert_eq!(add(&mut kept, "a", "a2", 0), Some(package("a1")));
        assert_eq!(texts(&kept), [&b"b1"[..], b"x", b"a2"]);
        // With one byte of each key.
        assert_eq!((kept.last(), kept.bytes()), (3, 7));
        // b1 has been sent as number 1.
        assert_eq!(add(&mut kept, "b", "b2", 1), None);
        assert_eq!(add(&mut kept, "b", "b3", 1), Some(package("b2")));
        kept.forget_first();
        assert_eq!(add(&mut kept, "a", "a3", 1), Some(package("a2")));
        assert_eq!(texts(&kept), [&b"x"[..], b"b3", b"a3"]);
        assert_eq!((kept.before(), kept.last(), kept.bytes()), (1, 4, 7));
    }
}
