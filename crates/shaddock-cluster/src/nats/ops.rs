//! Session operations, between shaddock servers and with Pitaya frontends.

mod convert;
mod pitaya;
mod receive;
mod send;

pub(super) use self::convert::millis;
pub(super) use self::receive::received;
pub(super) use self::send::send;
