//! What makes a plan impossible, told before anyone signs it.
//!
//! Owns [`Plan::check`]. Main invariant: a plan without problems contradicts neither itself nor a bound, and
//! every placeholder in it can be filled in. Refuses to judge whether it fits a fleet: that is the planner's.

use std::collections::BTreeSet;

use super::{Hook, Install, Plan, PlanArtifact, Restart, Select};
use crate::bounds::{
    ARTIFACT_BYTES_MAX, ARTIFACTS_PER_PLAN_MAX, COMMAND_ARGUMENTS_MAX, FROM_PER_ARTIFACT_MAX, LABELS_MAX,
    MANIFEST_BYTES_MAX, PLAN_DURATION_S_MAX, PROBES_MAX, TEXT_BYTES_MAX,
};
use crate::document::{Document, Kind, Problem, check_expiry, check_head, check_text};
use crate::enrolment::is_label_name;
use crate::health::{Probe, ProbeKind, When};
use crate::ids::FleetId;
use crate::time::WallTime;

/// Most versions kept on a server: more fills its disk.
const KEEP_MAX: u32 = 100;
/// Most attempts of one server: more is not a retry, it is a loop.
const ATTEMPTS_MAX: u32 = 100;
/// Longest wait for one probe, in seconds.
const PROBE_TIMEOUT_S_MAX: u32 = 3600;

impl Document for Plan {
    const KIND: Kind = Kind::Plan;

    fn fleet(&self) -> &FleetId {
        &self.fleet
    }

    fn issued(&self) -> WallTime {
        self.issued
    }

    fn problems(&self) -> Vec<Problem> {
        self.check()
    }
}

/// Collects problems under one dotted key.
pub(super) struct Under<'a> {
    problems: &'a mut Vec<Problem>,
    pub(super) at: String,
}

impl<'a> Under<'a> {
    pub(super) fn at(at: &str, problems: &'a mut Vec<Problem>) -> Self {
        Self { problems, at: at.to_owned() }
    }

    pub(super) fn say(&mut self, key: &str, problem: impl Into<String>) {
        let dot = if self.at.is_empty() || key.is_empty() { "" } else { "." };
        self.problems.push(Problem::new(format!("{}{dot}{key}", self.at), problem));
    }

    pub(super) fn at_most(&mut self, key: &str, found: usize, most: usize) {
        if found > most {
            self.say(key, format!("has {found} entries; at most {most}"));
        }
    }

    pub(super) fn seconds(&mut self, key: &str, found: u32, least: u32, most: u32) {
        if found < least || found > most {
            self.say(key, format!("{found} s is out of range: write {least} to {most}"));
        }
    }

    /// A text with placeholders.
    fn text(&mut self, key: &str, text: &str) {
        if text.is_empty() {
            self.say(key, "must not be empty");
        } else if text.len() > TEXT_BYTES_MAX {
            self.say(key, format!("has {} bytes; at most {TEXT_BYTES_MAX}", text.len()));
        } else if text.contains('\0') {
            self.say(key, "holds a NUL character, which no program can be given");
        }
        for problem in placeholder_problems(text) {
            self.say(key, problem);
        }
    }

    fn command(&mut self, key: &str, command: &[String]) {
        match command.first().map(|program| program.trim()) {
            None => self.say(
                key,
                "is empty: write the program and its arguments, as in [\"systemctl\", \"reload\", \"x\"]",
            ),
            Some("") => self.say(key, "names no program"),
            Some(_) => {}
        }
        self.at_most(key, command.len(), COMMAND_ARGUMENTS_MAX);
        for (index, argument) in command.iter().enumerate().take(COMMAND_ARGUMENTS_MAX) {
            if index > 0 && argument.is_empty() {
                continue;
            }
            self.text(&format!("{key}[{index}]"), argument);
        }
    }

    fn unit(&mut self, key: &str, unit: &str) {
        self.text(key, unit);
        let odd = |c: char| c.is_whitespace() || c.is_control() || c == '/';
        if unit.starts_with('-') || unit.contains(odd) {
            self.say(key, format!("{unit:?} is no unit: write a name such as web.service"));
        }
    }
}

impl Plan {
    /// Everything wrong with the plan that can be told from itself alone, with dotted keys as in the file.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        check_head(&mut problems, self.format, ("generation", self.generation.0));
        check_expiry(&mut problems, self.issued, self.expires);
        check_text(&mut problems, "description", &self.description, false);
        self.check_select(&mut Under::at("select", &mut problems));
        self.check_artifacts(&mut Under::at("", &mut problems));
        self.check_install(&mut Under::at("install", &mut problems));
        self.check_lease(&mut Under::at("lease", &mut problems));
        self.check_health(&mut Under::at("health", &mut problems));
        self.check_pace(&mut Under::at("", &mut problems));
        super::stage::check(&self.stages, &mut Under::at("stages", &mut problems));
        super::order::check(&self.order, &mut Under::at("order", &mut problems));
        problems.extend(self.check_windows());
        problems
    }

    fn check_select(&self, under: &mut Under<'_>) {
        check_select(under, &self.select);
    }

    fn check_artifacts(&self, under: &mut Under<'_>) {
        if self.artifacts.is_empty() {
            under.say("artifact", "is empty: a plan installs at least one");
        }
        under.at_most("artifact", self.artifacts.len(), ARTIFACTS_PER_PLAN_MAX);
        let (mut names, mut ids) = (BTreeSet::new(), BTreeSet::new());
        for (index, artifact) in self.artifacts.iter().enumerate() {
            under.at = format!("artifact[{index}]");
            if !names.insert(&artifact.name) {
                under.say("name", format!("{} is listed twice", artifact.name));
            }
            if !ids.insert(artifact.id) {
                under.say("id", "is listed twice");
            }
            check_artifact(under, artifact);
        }
    }

    fn check_install(&self, under: &mut Under<'_>) {
        match &self.install {
            Install::Release { restart, drain, restore, keep } => {
                match restart {
                    Restart::Unit(unit) => under.unit("restart.unit", unit),
                    Restart::Command(hook) => check_hook(under, "restart.command", hook),
                }
                if let Some(hook) = drain {
                    check_hook(under, "drain", hook);
                }
                if let Some(hook) = restore {
                    check_hook(under, "restore", hook);
                }
                if *keep < 2 {
                    under.say("keep", format!("{keep} leaves nothing to roll back to: write at least 2"));
                } else if *keep > KEEP_MAX {
                    under.say("keep", format!("{keep} versions would fill the disk: at most {KEEP_MAX}"));
                }
            }
        }
    }

    fn check_lease(&self, under: &mut Under<'_>) {
        let lease = &self.lease;
        under.seconds("start_within_s", lease.start_within_s, 1, PLAN_DURATION_S_MAX);
        under.seconds("down_s_max", lease.down_s_max, 1, PLAN_DURATION_S_MAX);
        under.seconds("commit_within_s", lease.commit_within_s, 1, PLAN_DURATION_S_MAX);
        if lease.commit_within_s >= lease.down_s_max {
            under.say(
                "commit_within_s",
                format!(
                    "{} s is not below down_s_max ({} s): a server that rolls back must still be up in time",
                    lease.commit_within_s, lease.down_s_max
                ),
            );
        }
        let restart_s = match &self.install {
            Install::Release { restart: Restart::Command(hook), .. } => hook.timeout_s,
            Install::Release { restart: Restart::Unit(_), .. } => 0,
        };
        let Install::Release { drain, .. } = &self.install;
        if let Some(drain) = drain.as_ref().filter(|hook| hook.timeout_s >= lease.start_within_s) {
            under.say(
                "start_within_s",
                format!(
                    "{} s leaves no time to begin in: draining alone may take {} s of it",
                    lease.start_within_s, drain.timeout_s
                ),
            );
        }
        let health = &self.health;
        let needed = u64::from(restart_s) + u64::from(health.settle_s) + u64::from(health.soak_s);
        if needed >= u64::from(lease.commit_within_s) {
            under.say(
                "commit_within_s",
                format!(
                    "{} s would always roll back: restart ({restart_s} s), settle ({} s) and soak ({} s) may take {needed} s",
                    lease.commit_within_s, health.settle_s, health.soak_s
                ),
            );
        }
    }

    fn check_health(&self, under: &mut Under<'_>) {
        let health = &self.health;
        under.seconds("soak_s", health.soak_s, 1, PLAN_DURATION_S_MAX);
        under.seconds("settle_s", health.settle_s, 1, PLAN_DURATION_S_MAX);
        under.seconds("interval_s", health.interval_s, 1, PLAN_DURATION_S_MAX);
        if health.interval_s > health.soak_s {
            let (interval, soak) = (health.interval_s, health.soak_s);
            under.say(
                "interval_s",
                format!("{interval} s is longer than soak_s ({soak} s): nothing would be probed"),
            );
        }
        let rounds = health.soak_s / health.interval_s.max(1);
        if health.failures_allowed > 0 && health.failures_allowed >= rounds {
            let allowed = health.failures_allowed;
            under.say(
                "failures_allowed",
                format!("{allowed} of {rounds} rounds may fail: nothing could ever be unhealthy"),
            );
        }
        for (when, word) in [(When::Before, "before"), (When::After, "after")] {
            if !health.probes.iter().any(|probe| probe.when.contains(&when)) {
                under.say("probe", format!("none is asked {word}: no data is not success"));
            }
        }
        under.at_most("probe", health.probes.len(), PROBES_MAX);
        let mut names = BTreeSet::new();
        for (index, probe) in health.probes.iter().enumerate().take(PROBES_MAX) {
            under.at = format!("health.probe[{index}]");
            if !names.insert(&probe.name) {
                under.say("name", format!("{} is used twice", probe.name));
            }
            check_probe(under, probe);
        }
    }

    fn check_pace(&self, under: &mut Under<'_>) {
        under.seconds("spread.window_s", self.spread.window_s, 0, PLAN_DURATION_S_MAX);
        under.seconds("spread.jitter_s", self.spread.jitter_s, 0, PLAN_DURATION_S_MAX);
        let retry = &self.retry;
        if retry.attempts_max == 0 || retry.attempts_max > ATTEMPTS_MAX {
            under.say(
                "retry.attempts_max",
                format!("{} is out of range: write 1 to {ATTEMPTS_MAX}", retry.attempts_max),
            );
        }
        under.seconds("retry.base_s", retry.base_s, 1, PLAN_DURATION_S_MAX);
        under.seconds("retry.cap_s", retry.cap_s, 1, PLAN_DURATION_S_MAX);
        if retry.cap_s < retry.base_s {
            under.say("retry.cap_s", format!("{} s is below base_s ({} s)", retry.cap_s, retry.base_s));
        }
    }
}

/// A selector: no server both in and out, and labels that a server could have.
pub(super) fn check_select(under: &mut Under<'_>, select: &Select) {
    for server in select.except.intersection(&select.servers) {
        let problem = format!("{server} is in {}.servers too: remove it from one of them", under.at);
        under.say("except", problem);
    }
    under.at_most("labels", select.labels.len(), LABELS_MAX);
    for (name, values) in select.labels.iter().take(LABELS_MAX) {
        if !is_label_name(name) {
            under.say(
                "labels",
                format!("{name:?} is no label: one has 1 to 64 of a-z, A-Z, 0-9, '-' and '_'"),
            );
        }
        if values.is_empty() {
            under.say("labels", format!("{name} lists no value: no server could match"));
        }
    }
}

fn check_artifact(under: &mut Under<'_>, artifact: &PlanArtifact) {
    let most = u64::try_from(MANIFEST_BYTES_MAX).unwrap_or(u64::MAX);
    if artifact.manifest_bytes == 0 || artifact.manifest_bytes > most {
        under
            .say("manifest_bytes", format!("{} is out of range: write 1 to {most}", artifact.manifest_bytes));
    }
    if artifact.bytes > ARTIFACT_BYTES_MAX {
        under.say(
            "bytes",
            format!("{} is more than the {ARTIFACT_BYTES_MAX} that an artifact may have", artifact.bytes),
        );
    }
    under.at_most("from", artifact.from.len(), FROM_PER_ARTIFACT_MAX);
    let mut ids = BTreeSet::new();
    for (index, predecessor) in artifact.from.iter().enumerate().take(FROM_PER_ARTIFACT_MAX) {
        if predecessor.id == artifact.id {
            under.say(&format!("from[{index}].id"), "is the artifact itself: it cannot replace itself");
        }
        if !ids.insert(predecessor.id) {
            under.say(&format!("from[{index}].id"), "is listed twice");
        }
    }
}

fn check_hook(under: &mut Under<'_>, key: &str, hook: &Hook) {
    under.command(&format!("{key}.command"), &hook.command);
    under.seconds(&format!("{key}.timeout_s"), hook.timeout_s, 1, PLAN_DURATION_S_MAX);
}

fn check_probe(under: &mut Under<'_>, probe: &Probe) {
    under.seconds("timeout_s", probe.timeout_s, 1, PROBE_TIMEOUT_S_MAX);
    if probe.when.is_empty() {
        under.say("when", "is empty: the probe would never be asked");
    }
    if probe.when.iter().collect::<BTreeSet<_>>().len() != probe.when.len() {
        under.say("when", "lists a time twice");
    }
    match &probe.kind {
        ProbeKind::Command { command } => under.command("command", command),
        ProbeKind::Http { url, status, contains } => {
            under.text("url", url);
            if let Some(problem) = url_problem(url) {
                under.say("url", problem);
            }
            if !(100..=599).contains(status) {
                under.say("status", format!("{status} is no HTTP status: write 100 to 599"));
            }
            if let Some(text) = contains {
                under.text("contains", text);
            }
        }
        ProbeKind::Tcp { address } => {
            under.text("address", address);
            if let Some(problem) = address_problem(address, true) {
                under.say("address", problem);
            }
        }
        ProbeKind::Unit { unit } => under.unit("unit", unit),
        ProbeKind::Disk { path, free_bytes_min } => {
            under.text("path", path);
            if !path.starts_with('/') && !path.starts_with("${root}") {
                under.say("path", format!("{path:?} is not absolute: begin with / or ${{root}}"));
            }
            if *free_bytes_min == 0 {
                under.say("free_bytes_min", "0 is always there: write how much is needed");
            }
        }
        ProbeKind::Memory { available_bytes_min } => {
            if *available_bytes_min == 0 {
                under.say("available_bytes_min", "0 is always there: write how much is needed");
            }
        }
        ProbeKind::Load { per_core_percent_max } => {
            if *per_core_percent_max == 0 {
                under.say("per_core_percent_max", "0 could never be met: write at least 1");
            }
        }
    }
}

/// What stands between `${` and `}` must be something that every server can fill in.
fn placeholder_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        rest = &rest[start + 2..];
        let Some(end) = rest.find('}') else {
            problems.push("a placeholder `${` is not closed with `}`".to_owned());
            break;
        };
        let name = &rest[..end];
        rest = &rest[end + 1..];
        let known = matches!(name, "server" | "hostname" | "root")
            || name.strip_prefix("label.").is_some_and(is_label_name);
        if !known {
            let name: String = name.chars().take(64).collect();
            problems.push(format!(
                "placeholder ${{{name}}} is not known: use ${{server}}, ${{hostname}}, ${{root}} or ${{label.NAME}}"
            ));
        }
    }
    problems
}

fn url_problem(url: &str) -> Option<String> {
    if url.is_empty() {
        return None;
    }
    let Some(rest) = url.strip_prefix("http://") else {
        return Some(format!("{url:?} is not http://…: a probe asks this server's own service, without TLS"));
    };
    if url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Some("holds white space: write %20".to_owned());
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Some("holds a user name or password: a plan is read by everyone".to_owned());
    }
    address_problem(authority, false).map(|problem| format!("{url:?}: {problem}"))
}

/// `host:port`, either of which may be a placeholder.
fn address_problem(address: &str, port_required: bool) -> Option<String> {
    let (host, port) = match address.rsplit_once(':') {
        // The last colon of `[::1]` belongs to the address.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (address, None),
    };
    if host.is_empty() {
        return Some(format!("{address:?} names no host"));
    }
    match port {
        None if port_required => Some(format!("{address:?} names no port: write host:port")),
        Some(port) if !port.contains("${") && !port.parse::<u16>().is_ok_and(|port| port > 0) => {
            Some(format!("{port:?} is no port: write 1 to 65535"))
        }
        _ => None,
    }
}
