//! The pipe that ties a child to its parent.

use std::{io, os::fd::AsFd as _};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::unix::pipe::Receiver,
    process::ChildStdin,
};

/// The byte that a parent writes before it releases a child on purpose.
const STOP: &[u8] = b"stop\n";

/// Why a child must stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// The parent wants it.
    Asked,
    /// The parent is dead.
    Orphaned,
}

/// Done when the parent lets go of this process, whose standard input must be a pipe.
///
/// # Errors
/// It is no pipe.
pub(super) async fn cut() -> io::Result<Cut> {
    let mut pipe = Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
    let mut text = [0; 16];
    let mut cut = Cut::Orphaned;
    // An error is an end, too.
    while matches!(pipe.read(&mut text).await, Ok(n) if n > 0) {
        cut = Cut::Asked;
    }
    Ok(cut)
}

/// Lets go of a child.
pub(super) async fn release(mut lifeline: ChildStdin) {
    // A child that is gone reads nothing.
    let _ = lifeline.write_all(STOP).await;
}
