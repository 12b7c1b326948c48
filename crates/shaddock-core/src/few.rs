//! A list that nearly always has length one, and then owns no memory.

/// One or more values, in the order of insertion.
#[derive(Debug)]
pub(crate) enum Few<T> {
    One(T),
    /// Boxed: each list with one value pays for the size of this variant.
    #[allow(
        clippy::box_collection,
        reason = "a `Vec` has three words, this has one"
    )]
    Many(Box<Vec<T>>),
}

impl<T: Clone> Few<T> {
    pub(crate) fn as_slice(&self) -> &[T] {
        match self {
            Self::One(thing) => std::slice::from_ref(thing),
            Self::Many(things) => things,
        }
    }

    pub(crate) fn push(&mut self, thing: T) {
        match self {
            Self::Many(things) => things.push(thing),
            Self::One(first) => *self = Self::Many(Box::new(vec![first.clone(), thing])),
        }
    }

    /// Removes all values that `gone` selects.
    pub(crate) fn remove(&mut self, gone: impl Fn(&T) -> bool) -> Removed {
        match self {
            Self::One(thing) if gone(thing) => Removed::Last,
            Self::One(_) => Removed::Nothing,
            Self::Many(things) => {
                let before = things.len();
                things.retain(|thing| !gone(thing));
                let after = things.len();
                if let [last] = &things[..] {
                    *self = Self::One(last.clone());
                }
                match after {
                    0 => Removed::Last,
                    _ if after == before => Removed::Nothing,
                    _ => Removed::Some,
                }
            }
        }
    }
}

impl<T: Clone> Clone for Few<T> {
    fn clone(&self) -> Self {
        match self {
            Self::One(thing) => Self::One(thing.clone()),
            Self::Many(things) => Self::Many(things.clone()),
        }
    }
}

/// The result of [`Few::remove`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removed {
    /// The value was not found.
    Nothing,
    /// Other values remain.
    Some,
    /// The value was the last: the list must be removed.
    Last,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_and_shrinks_in_order() {
        let mut few = Few::One(1);
        assert_eq!(few.remove(|n| *n == 9), Removed::Nothing);
        few.push(2);
        few.push(3);
        assert_eq!(few.remove(|n| *n == 9), Removed::Nothing);
        assert_eq!(few.remove(|n| *n == 1), Removed::Some);
        assert_eq!(few.as_slice(), [2, 3]);
        assert_eq!(few.remove(|n| *n == 2), Removed::Some);
        assert!(matches!(few, Few::One(3)));
        assert_eq!(few.remove(|n| *n == 3), Removed::Last);
    }
}
