//! The signals of a process.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal that asks a process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndSignal {
    /// SIGINT: Ctrl-C in a terminal.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl EndSignal {
    /// `SIGINT` or `SIGTERM`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        }
    }

    /// The exit status of a process that the signal ended, as shells report it: 128 plus its number.
    pub const fn status(self) -> u8 {
        match self {
            Self::Interrupt => 128 + 2,
            Self::Terminate => 128 + 15,
        }
    }
}

/// Receives the signals that ask a process to end, which then do not end it by themselves.
#[derive(Debug)]
pub struct EndSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl EndSignals {
    /// Handles the signals from now on, also those that arrive before the first call of [`next`](Self::next).
    ///
    /// # Errors
    /// The system refuses.
    ///
    /// # Panics
    /// Outside of a tokio runtime with IO.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The next signal. Cancel-safe.
    pub async fn next(&mut self) -> EndSignal {
        tokio::select! {
            _ = self.interrupt.recv() => EndSignal::Interrupt,
            _ = self.terminate.recv() => EndSignal::Terminate,
        }
    }
}

/// Makes the process survive SIGUSR1 and SIGUSR2, for good: monitoring and log rotation send them to all processes, and the default is to die.
///
/// # Errors
/// The system refuses.
///
/// # Panics
/// Outside of a tokio runtime with IO.
pub fn survive_user_signals() -> io::Result<()> {
    // The handler stays when the receiver is gone.
    drop(signal(SignalKind::user_defined1())?);
    drop(signal(SignalKind::user_defined2())?);
    Ok(())
}
