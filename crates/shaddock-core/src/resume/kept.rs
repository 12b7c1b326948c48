//! DATA packages that a client has not acknowledged, in the order in which they were accepted.

use crate::pool;
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;

/// Shared packages up to this length are copied: as in the outbox, a pointer to them would cost more.
const COPY_MAX: usize = 64;

/// Places allocated when the first package arrives: approximately the packages between two acknowledgements.
const PLACES: usize = 32;

/// Packages with consecutive numbers. Owns no memory while empty.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    list: VecDeque<Item>,
    /// The bytes of all [`Item::Own`], one after another.
    own: BytesMut,
    /// The number of the last package that was removed.
    before: u64,
    bytes: usize,
}

#[derive(Debug)]
enum Item {
    /// This number of bytes of `own`.
    Own(usize),
    Shared(Bytes),
    Latest(Box<Latest>),
}

#[derive(Debug)]
struct Latest {
    key: Box<str>,
    package: Bytes,
}

/// A kept package.
pub(crate) enum Piece<'a> {
    Own(&'a [u8]),
    Shared(&'a Bytes),
}

impl Kept {
    /// The number of the last package.
    pub(crate) fn last(&self) -> u64 {
        self.before + self.list.len() as u64
    }

    /// The number of the last package that was removed, acknowledged or discarded.
    pub(crate) const fn before(&self) -> u64 {
        self.before
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// The bytes of all packages.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn add_own(&mut self, package: &[u8]) {
        if self.own.capacity() == 0 {
            self.own = pool::lend().keep();
        }
        self.own.extend_from_slice(package);
        self.add(Item::Own(package.len()), package.len());
    }

    pub(crate) fn add_shared(&mut self, package: &Bytes) {
        if package.len() <= COPY_MAX {
            self.add_own(package);
        } else {
            self.add(Item::Shared(package.clone()), package.len());
        }
    }

    /// Adds a package for whose key only the newest matters. The previous one is removed, if its number is above `fixed`; the numbers of
    /// later ones decrease by one. Returns the removed one.
    pub(crate) fn add_latest(&mut self, key: &str, package: &Bytes, fixed: u64) -> Option<Bytes> {
        let fixed = usize::try_from(fixed.saturating_sub(self.before)).unwrap_or(usize::MAX);
        let place = self
            .list
            .iter()
            .skip(fixed)
            .position(|item| matches!(item, Item::Latest(latest) if *latest.key == *key));
        let old = place.and_then(|place| self.list.remove(fixed + place));
        let latest = Latest {
            key: key.into(),
            package: package.clone(),
        };
        self.add(Item::Latest(Box::new(latest)), package.len());
        match old {
            Some(Item::Latest(old)) => {
                self.bytes -= old.package.len();
                Some(old.package)
            }
            _ => None,
        }
    }

    fn add(&mut self, item: Item, bytes: usize) {
        if self.list.capacity() == 0 {
            self.list.reserve(PLACES);
        }
        self.list.push_back(item);
        self.bytes += bytes;
    }

    /// Removes the oldest one. Drop the returned value without a lock.
    pub(crate) fn forget_first(&mut self) -> Option<Bytes> {
        let item = self.list.pop_front()?;
        self.before += 1;
        let (len, package) = match item {
            Item::Own(len) => {
                self.own.advance(len);
                (len, None)
            }
            Item::Shared(package) => (package.len(), Some(package)),
            Item::Latest(latest) => (latest.package.len(), Some(latest.package)),
        };
        self.bytes -= len;
        if self.list.is_empty() {
            self.list = VecDeque::new();
            let mut own = std::mem::take(&mut self.own);
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
        assert_eq!(kept.add_latest("k", &Bytes::from_static(b"four"), 0), None);
        assert_eq!(texts(&kept), [&b"one"[..], &long(2), b"three", b"four"]);
        assert_eq!((kept.before(), kept.last()), (0, 4));
        assert_eq!(kept.forget_first(), None);
        assert_eq!(kept.forget_first(), Some(long(2)));
        assert_eq!(texts(&kept), [&b"three"[..], b"four"]);
        assert_eq!((kept.before(), kept.last(), kept.bytes()), (2, 4, 9));
        kept.forget_first();
        kept.forget_first();
        assert_eq!(
            (kept.forget_first(), kept.last(), kept.bytes()),
            (None, 4, 0)
        );
        assert_eq!((kept.own.capacity(), kept.list.capacity()), (0, 0));
    }

    #[test]
    fn only_the_newest_of_a_key_is_kept_unless_its_number_is_fixed() {
        let mut kept = Kept::default();
        let package = |text: &'static str| Bytes::from_static(text.as_bytes());
        kept.add_latest("a", &package("a1"), 0);
        kept.add_latest("b", &package("b1"), 0);
        kept.add_own(b"x");
        let old = kept.add_latest("a", &package("a2"), 0);
        assert_eq!(old, Some(package("a1")));
        assert_eq!(texts(&kept), [&b"b1"[..], b"x", b"a2"]);
        assert_eq!((kept.last(), kept.bytes()), (3, 5));
        // b1 has been sent as number 1.
        assert_eq!(kept.add_latest("b", &package("b2"), 1), None);
        assert_eq!(kept.add_latest("b", &package("b3"), 1), Some(package("b2")));
        kept.forget_first();
        assert_eq!(kept.add_latest("a", &package("a3"), 1), Some(package("a2")));
        assert_eq!(texts(&kept), [&b"x"[..], b"b3", b"a3"]);
        assert_eq!((kept.before(), kept.last()), (1, 4));
    }
}
