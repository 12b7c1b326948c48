//! Whether a predicate is true of a session.

use std::{cmp::Ordering, net::SocketAddr};

use serde_json::Value;
use shaddock_core::Session;

use super::{
    super::session_info::state_name,
    types::{Field, Node, Test},
};

/// What a predicate may ask of a session.
pub(super) trait Facts {
    fn text(&self, field: Field) -> Option<String>;
    fn number(&self, field: Field) -> f64;
    fn version(&self) -> Option<String>;
    fn address(&self) -> Option<SocketAddr>;
    fn setting(&self, path: &[String]) -> Option<Value>;
}

impl Node {
    pub(super) fn holds(&self, of: &(impl Facts + ?Sized)) -> bool {
        match self {
            Self::Or(nodes) => nodes.iter().any(|node| node.holds(of)),
            Self::And(nodes) => nodes.iter().all(|node| node.holds(of)),
            Self::Not(node) => !node.holds(of),
            Self::Text(field, test, wanted) => match (of.text(*field), wanted) {
                (None, None) => *test == Test::Equal,
                (Some(have), Some(wanted)) => test.holds(have.as_str().cmp(wanted)),
                _ => *test == Test::NotEqual,
            },
            Self::Number(field, test, wanted) => test.of(of.number(*field).partial_cmp(wanted)),
            Self::Version(test, wanted) => match (of.version(), wanted) {
                (None, None) => *test == Test::Equal,
                (Some(have), Some(wanted)) => test.holds(compare_versions(&have, wanted)),
                _ => *test == Test::NotEqual,
            },
            Self::Address(is_in, net) => {
                of.address()
                    .is_some_and(|address| net.filter.holds(address))
                    == *is_in
            }
            Self::Setting(path, test, wanted) => {
                let have = of.setting(path).unwrap_or(Value::Null);
                test.of(compare_values(&have, wanted))
            }
        }
    }
}

/// Part by part: as numbers where both are, as text otherwise. `1.4` is `1.4.0`.
fn compare_versions(one: &str, two: &str) -> Ordering {
    let parts =
        |text: &str| -> Vec<String> { text.split(['.', '-', '+']).map(str::to_owned).collect() };
    let (one, two) = (parts(one), parts(two));
    for at in 0..one.len().max(two.len()) {
        let part = |list: &[String]| list.get(at).cloned().unwrap_or_else(|| "0".to_owned());
        let (a, b) = (part(&one), part(&two));
        let order = match (a.parse::<u64>(), b.parse::<u64>()) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            _ => a.cmp(&b),
        };
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

/// `None`: they are of different kinds, or not equal and without an order.
fn compare_values(one: &Value, two: &Value) -> Option<Ordering> {
    match (one, two) {
        (Value::Number(a), Value::Number(b)) => match (whole(a), whole(b)) {
            // As floating point numbers two that are above 2^53 could be the same.
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
        },
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) if a == b => Some(Ordering::Equal),
        (Value::Null, Value::Null) => Some(Ordering::Equal),
        _ => None,
    }
}

/// A number that was written without a fraction.
fn whole(number: &serde_json::Number) -> Option<i128> {
    let signed = number.as_i64().map(i128::from);
    signed.or_else(|| number.as_u64().map(i128::from))
}

impl Facts for Session {
    fn text(&self, field: Field) -> Option<String> {
        let claims = || self.claims().unwrap_or_default();
        Some(match field {
            Field::Uid => return self.uid().map(|uid| uid.as_str().to_owned()),
            Field::Sid => self.id().to_string(),
            Field::Frontend => self.frontend_id().as_str().to_owned(),
            Field::Transport => self.client().transport.name().to_owned(),
            Field::Dialect => self.variant().dialect().name().to_owned(),
            Field::State => state_name(self.state()).to_owned(),
            Field::Client => return claims().kind.as_deref().map(str::to_owned),
            Field::Platform => return claims().platform.as_deref().map(str::to_owned),
            Field::Age | Field::Queued => return None,
        })
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "milliseconds and bytes are far below 2^53"
    )]
    fn number(&self, field: Field) -> f64 {
        if field == Field::Age {
            return shaddock_net::now()
                .0
                .saturating_sub(self.client().connected_at.0) as f64;
        }
        let outbox = self.outbox().stats();
        (outbox.queued_bytes + outbox.in_flight_bytes) as f64
    }

    fn version(&self) -> Option<String> {
        let claims = self.claims()?;
        claims.version.as_deref().map(str::to_owned)
    }

    fn address(&self) -> Option<SocketAddr> {
        self.client().address
    }

    fn setting(&self, path: &[String]) -> Option<Value> {
        let (first, rest) = path.split_first()?;
        let settings = self.settings();
        let mut value = settings.get(first)?;
        for key in rest {
            value = value.get(key)?;
        }
        Some(value.clone())
    }
}
