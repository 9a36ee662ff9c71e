//! What the demo shows while it runs.
//!
//! Owns the bars, or, where no terminal is, a line for each change. Main invariant: shows only what the
//! coordinator says; knows nothing of its own.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write as _};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};
use lunar_common::message::{BytesBySource, CampaignStatus};
use lunar_common::phase::Phase;
use lunar_coordinator_core::view::{LimitView, ServerView};

/// The live view.
pub struct Progress {
    screen: Option<Screen>,
    phases: BTreeMap<String, Phase>,
    quiet: bool,
}

struct Screen {
    all: MultiProgress,
    servers: BTreeMap<String, ProgressBar>,
    bytes: ProgressBar,
    limits: ProgressBar,
}

impl Progress {
    /// A view of these servers; `quiet` shows nothing.
    #[must_use]
    pub fn new(servers: impl Iterator<Item = String>, quiet: bool) -> Self {
        let screen = (!quiet && std::io::stderr().is_terminal()).then(|| Screen::new(servers));
        Self { screen, phases: BTreeMap::new(), quiet }
    }

    /// Shows the newest state.
    pub fn update(&mut self, servers: &[ServerView], limits: &[LimitView]) {
        let mut received = BytesBySource::default();
        for view in servers {
            let Some(status) = view.campaign() else { continue };
            add(&mut received, &status.received);
            let name = view.member.server.to_string();
            let changed = self.phases.insert(name.clone(), status.phase) != Some(status.phase);
            match &self.screen {
                Some(screen) => screen.server(&name, status),
                None if changed && !self.quiet => say(&format!("  {name} {}", status.phase)),
                None => {}
            }
        }
        if let Some(screen) = &self.screen {
            screen.bytes.set_message(format!(
                "from the same site {}, other sites {}, Earth {}, found locally {}",
                HumanBytes(received.site),
                HumanBytes(received.sites),
                HumanBytes(received.earth),
                HumanBytes(received.local)
            ));
            let used: Vec<_> = limits
                .iter()
                .filter_map(|view| Some(format!("{} {}/{}", view.scope, view.taken, view.limit?)))
                .collect();
            screen.limits.set_message(used.join("  "));
        }
    }

    /// Says one thing beside the bars.
    pub fn say(&self, text: &str) {
        match &self.screen {
            // A terminal that went away is no reason to stop.
            Some(screen) => drop(screen.all.println(text)),
            None if !self.quiet => say(text),
            None => {}
        }
    }

    /// Leaves the last state on the screen.
    pub fn finish(&self) {
        if let Some(screen) = &self.screen {
            for bar in screen.servers.values().chain([&screen.bytes, &screen.limits]) {
                bar.abandon();
            }
        }
    }
}

impl Screen {
    fn new(servers: impl Iterator<Item = String>) -> Self {
        let all = MultiProgress::new();
        let bar_style = ProgressStyle::with_template("{prefix:>8} {bar:24} {pos:>4}/{len:4} {msg}");
        let line_style = ProgressStyle::with_template("{prefix:>8} {msg}");
        let styled = |bar: ProgressBar, style: &ProgressStyle, prefix: String| {
            bar.set_style(style.clone());
            bar.set_prefix(prefix);
            bar
        };
        let bar_style = bar_style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let line_style = line_style.unwrap_or_else(|_| ProgressStyle::default_spinner());
        let servers = servers
            .map(|name| (name.clone(), styled(all.add(ProgressBar::new(1)), &bar_style, name)))
            .collect();
        let bytes = styled(all.add(ProgressBar::new_spinner()), &line_style, "chunks".into());
        let limits = styled(all.add(ProgressBar::new_spinner()), &line_style, "leases".into());
        Self { all, servers, bytes, limits }
    }

    fn server(&self, name: &str, status: &CampaignStatus) {
        let Some(bar) = self.servers.get(name) else { return };
        bar.set_length(u64::from(status.chunks.1.max(1)));
        bar.set_position(u64::from(status.chunks.0));
        bar.set_message(status.phase.to_string());
    }
}

/// Adds the bytes of one server to a sum.
pub fn add(sum: &mut BytesBySource, more: &BytesBySource) {
    sum.site += more.site;
    sum.sites += more.sites;
    sum.earth += more.earth;
    sum.local += more.local;
}

fn say(text: &str) {
    // Only for people; a closed standard error is no reason to stop.
    let _ = writeln!(std::io::stderr(), "{text}");
}
