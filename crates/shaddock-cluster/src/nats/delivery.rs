//! Messages for clients, on their way to frontends and at their end.

mod here;
mod parts;
mod receive;
mod send;

pub(super) use self::receive::{read_topics, received, received_plain};
pub(super) use self::send::{
    Delivering, check, fail, publish_to_topic, send, send_plain, send_unconfirmed, send_watching,
};
