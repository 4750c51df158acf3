//! What asks a process to end, whatever system it runs on.

use std::io;

use tokio::signal;

/// Listens for Ctrl-C and, where there is such a thing, SIGTERM.
#[derive(Debug)]
pub struct StopSignals {
    #[cfg(unix)]
    interrupt: signal::unix::Signal,
    #[cfg(unix)]
    terminate: signal::unix::Signal,
}

impl StopSignals {
    /// Begins to listen. On Unix, a signal that comes before [`Self::next`] waits for it.
    pub fn listen() -> io::Result<Self> {
        #[cfg(unix)]
        {
            use signal::unix::{SignalKind, signal};
            Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Waits for the next one. Each is told once.
    #[cfg(unix)]
    pub async fn next(&mut self) -> io::Result<()> {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        Ok(())
    }

    /// Waits for the next one. Each is told once.
    #[cfg(not(unix))]
    pub async fn next(&mut self) -> io::Result<()> {
        signal::ctrl_c().await
    }
}
