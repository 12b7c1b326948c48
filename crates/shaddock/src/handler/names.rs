//! The routes of an app without their handlers, for metrics and traces.

use hashbrown::HashMap;

/// Short routes, with the numbers of their handlers.
pub(crate) struct RouteNames(HashMap<Box<str>, usize>);

impl RouteNames {
    /// Of short routes with the numbers of their handlers.
    pub(crate) fn of<'a>(numbers: impl Iterator<Item = (&'a str, usize)>) -> Self {
        Self(
            numbers
                .map(|(route, number)| (route.into(), number))
                .collect(),
        )
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn contains(&self, short: &str) -> bool {
        self.0.contains_key(short)
    }

    /// The routes with their numbers, in no order.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = (&str, usize)> {
        self.0.iter().map(|(route, number)| (&**route, *number))
    }
}
