//! Shared by several test binaries.

use shaddock_core::{Channel, FanOutGroup, FrontendId, Uid};

/// The members by name, by frontend.
pub(crate) fn by_name(channel: &Channel) -> Vec<(Uid, FrontendId)> {
    let plan = channel.members_by_frontend();
    let each = |group: &FanOutGroup| {
        let frontend = group.frontend.clone();
        let uids = group.uids.clone().into_iter();
        uids.map(move |uid| (uid, frontend.clone()))
    };
    plan.iter().flat_map(each).collect()
}
