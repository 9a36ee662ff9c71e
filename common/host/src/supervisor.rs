//! What systemd is told: ready, stopping, alive.
//!
//! Owns sd_notify. Main invariant: the watchdog is fed only by progress of the main loop, so that a stuck
//! program is restarted although its threads still run. Outside systemd every call does nothing.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

/// Tells the supervisor that the program does its work.
pub fn ready(status: &str) {
    notify(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status(status)]);
}

/// Tells the supervisor that the program is on its way out.
pub fn stopping() {
    notify(&[sd_notify::NotifyState::Stopping]);
}

/// How often the main loop must say that it moved: half of what the unit asks. `None`: no watchdog.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

/// Tells the supervisor that the main loop moved.
pub fn alive() {
    notify(&[sd_notify::NotifyState::Watchdog]);
}

/// Ends this process when the one that started it ends, if the environment asks for it with
/// `LUNAR_DIE_WITH_PARENT`: how the demo leaves nothing behind even when it is killed.
pub fn die_with_parent_if_asked() {
    if std::env::var_os("LUNAR_DIE_WITH_PARENT").is_none() {
        return;
    }
    if let Err(error) = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM) {
        tracing::warn!(%error, "this process would outlive the one that started it");
    }
}

/// Ends once somebody tells the program to stop: Ctrl-C, or SIGTERM from the supervisor. Listens from the call on.
///
/// # Errors
/// The operating system's; outside a runtime, a panic.
pub fn told_to_stop() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("told to stop");
    })
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the supervisor could not be told");
    }
}
