//! The text of a new plan: every key with the reason a person would change it.
//!
//! Owns the template. Main invariant: what it writes parses, passes the plan's checks, and shows every default
//! as a comment, so that nobody has to guess what a key that is not there means.

use std::fmt::Write as _;

use lunar_common::ids::{ArtifactId, ArtifactName, CampaignId, FleetId, KeyName, SiteId, Version};
use lunar_common::limits::{Limits, Tier};
use lunar_common::plan::{LeaseTerms, Retry, Spread};
use lunar_common::time::WallTime;

/// What a new plan is made of.
pub(super) struct Draft {
    pub(super) fleet: FleetId,
    pub(super) campaign: CampaignId,
    pub(super) generation: u64,
    pub(super) author: KeyName,
    pub(super) issued: WallTime,
    pub(super) expires: WallTime,
    pub(super) description: String,
    pub(super) tiers: Vec<Tier>,
    pub(super) sites: Vec<SiteId>,
    pub(super) unit: Option<String>,
    pub(super) restart: Vec<String>,
    pub(super) http: Option<String>,
    pub(super) artifacts: Vec<DraftArtifact>,
}

/// One artifact of a new plan.
pub(super) struct DraftArtifact {
    pub(super) name: ArtifactName,
    pub(super) version: Version,
    pub(super) id: ArtifactId,
    pub(super) manifest_bytes: usize,
    pub(super) bytes: u64,
    pub(super) from: Vec<(Version, ArtifactId)>,
}

impl Draft {
    /// The plan as a file.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let Self { fleet, campaign, generation, author, issued, expires, .. } = self;
        writeln!(
            out,
            "# Plan of campaign {campaign}. Check it with `lunar-coordinator plan check`, then sign it."
        )?;
        writeln!(
            out,
            "# Every change after signing needs new signatures; every published change a higher generation."
        )?;
        writeln!(
            out,
            "format = 1\nfleet = \"{fleet}\"\ncampaign = \"{campaign}\"\ngeneration = {generation}"
        )?;
        writeln!(
            out,
            "# A key's name in the trust root. It must be among the signers.\nauthor = \"{author}\""
        )?;
        writeln!(
            out,
            "issued = \"{issued}\"\n# Past this nothing new starts; what is under way finishes or rolls back."
        )?;
        writeln!(out, "expires = \"{expires}\"\ndescription = {}\n", quoted(&self.description))?;
        self.write_select(out)?;
        self.write_artifacts(out)?;
        self.write_install(out)?;
        write_numbers(out)?;
        self.write_health(out)
    }

    fn write_select(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "# Which servers: those that match every list that is not empty. Lists: tiers, sites, clusters,"
        )?;
        writeln!(out, "# services, servers; and `except` for servers that are left out.\n[select]")?;
        match self.tiers.as_slice() {
            [] => writeln!(out, "# tiers = [2, 3]")?,
            tiers => writeln!(out, "tiers = [{}]", joined(tiers.iter()))?,
        }
        match self.sites.as_slice() {
            [] => writeln!(out, "# sites = [\"base\"]\n# except = [\"srv-07\"]\n"),
            sites => writeln!(out, "sites = [{}]\n", joined(sites.iter().map(|site| format!("\"{site}\"")))),
        }
    }

    fn write_artifacts(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "# What is installed. Nothing is applied until all of it is complete on the server.")?;
        for artifact in &self.artifacts {
            let DraftArtifact { name, version, id, manifest_bytes, bytes, from } = artifact;
            writeln!(out, "[[artifact]]\nname = \"{name}\"\nversion = \"{version}\"\nid = \"{id}\"")?;
            writeln!(out, "manifest_bytes = {manifest_bytes}\nbytes = {bytes}\n")?;
            if from.is_empty() {
                writeln!(
                    out,
                    "# Nothing to replace: a first installation, which cannot be rolled back. Otherwise:"
                )?;
                writeln!(out, "# [[artifact.from]]\n# version = \"1\"\n# id = \"…\"\n")?;
            } else {
                writeln!(out, "# What it may replace, and to what a rollback may return.")?;
            }
            for (version, id) in from {
                writeln!(out, "[[artifact.from]]\nversion = \"{version}\"\nid = \"{id}\"\n")?;
            }
        }
        Ok(())
    }

    fn unit(&self) -> Option<String> {
        let first = self.artifacts.first().map(|artifact| format!("{}.service", artifact.name));
        if self.restart.is_empty() { self.unit.clone().or(first) } else { None }
    }

    fn write_install(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "# Unpacked beside the running version; a link is switched; the service is restarted."
        )?;
        writeln!(
            out,
            "# ${{server}}, ${{hostname}}, ${{root}} and ${{label.NAME}} are filled in on each server."
        )?;
        writeln!(
            out,
            "[install]\nkind = \"release\"\n# Versions kept on the server, the running one included.\nkeep = 2"
        )?;
        match self.unit() {
            Some(unit) => writeln!(out, "restart = {{ unit = {} }}", quoted(&unit))?,
            None => {
                let command = joined(self.restart.iter().map(|argument| quoted(argument)));
                writeln!(out, "restart = {{ command = {{ command = [{command}], timeout_s = 60 }} }}")?;
            }
        }
        writeln!(out, "# Takes traffic away before the switch, and gives it back at the end:")?;
        writeln!(
            out,
            "# drain = {{ command = [\"/usr/local/bin/drain\", \"${{server}}\"], timeout_s = 60 }}"
        )?;
        writeln!(
            out,
            "# restore = {{ command = [\"/usr/local/bin/restore\", \"${{server}}\"], timeout_s = 60 }}\n"
        )
    }

    fn write_health(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "# How health is told. Seconds. No data is not success: a probe that cannot be asked never passes."
        )?;
        writeln!(
            out,
            "[health]\n# How long the new version must stay healthy before it is committed.\nsoak_s = 60"
        )?;
        writeln!(
            out,
            "interval_s = 5\n# Longest wait for the first healthy round after the switch.\nsettle_s = 30"
        )?;
        writeln!(out, "failures_allowed = 0\n")?;
        writeln!(
            out,
            "# Kinds: command, http, tcp, unit, disk, memory, load. Asked before, after and through the soak,"
        )?;
        writeln!(out, "# unless `when = [\"before\", \"after\", \"soak\"]` says otherwise.")?;
        match (&self.http, self.unit()) {
            (Some(url), _) => {
                writeln!(
                    out,
                    "[[health.probe]]\nname = \"answers\"\nkind = \"http\"\nurl = {}",
                    quoted(url)
                )?;
                writeln!(out, "status = 200\ntimeout_s = 10\n")?;
            }
            (None, Some(unit)) => {
                writeln!(
                    out,
                    "[[health.probe]]\nname = \"runs\"\nkind = \"unit\"\nunit = {}\n",
                    quoted(&unit)
                )?;
            }
            (None, None) => {}
        }
        writeln!(out, "[[health.probe]]\nname = \"disk\"\nkind = \"disk\"\npath = \"${{root}}\"")?;
        writeln!(out, "free_bytes_min = 10000000\n")
    }
}

/// The numbers that have defaults, as comments.
fn write_numbers(out: &mut String) -> std::fmt::Result {
    let (limits, lease) = (Limits::default(), LeaseTerms::default());
    let (spread, retry) = (Spread::default(), Retry::default());
    writeln!(
        out,
        "# Most servers down at once. A start must fit all of them.\n[limits]\n# fleet = {}",
        limits.fleet
    )?;
    writeln!(out, "# group = {}", limits.group)?;
    writeln!(
        out,
        "# tier = {{ 1 = {}, 2 = {}, 3 = {} }}",
        limits.tier.one, limits.tier.two, limits.tier.three
    )?;
    writeln!(out, "# site = {{ default = 50, only = {{ base = 20 }} }}\n# cluster = {{ default = 5 }}\n")?;
    write_windows(out)?;
    writeln!(
        out,
        "# Seconds: permission to start; longest time down; rollback unless committed by then.\n[lease]"
    )?;
    writeln!(out, "# start_within_s = {}\n# down_s_max = {}", lease.start_within_s, lease.down_s_max)?;
    writeln!(out, "# commit_within_s = {}\n", lease.commit_within_s)?;
    writeln!(out, "# Downloads begin within this window, so that no stampede reaches a source.\n[spread]")?;
    writeln!(out, "# window_s = {}\n# jitter_s = {}\n", spread.window_s, spread.jitter_s)?;
    writeln!(out, "# A failed attempt is tried again after base_s, then twice that, and so on.\n[retry]")?;
    writeln!(
        out,
        "# attempts_max = {}\n# base_s = {}\n# cap_s = {}\n",
        retry.attempts_max, retry.base_s, retry.cap_s
    )
}

/// Maintenance windows, as an example.
fn write_windows(out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "# When servers may go down; without this, at any time. A start needs its tier's window to last"
    )?;
    writeln!(
        out,
        "# through lease.start_within_s, the time down and a rollback. `strict`: in its windows only;"
    )?;
    writeln!(
        out,
        "# `preferred`: outside them only while the campaign is behind; `any`: at any time. Times are the"
    )?;
    writeln!(
        out,
        "# zone's; one that its clocks leave out comes when they are set forward, one that they show twice"
    )?;
    writeln!(out, "# comes the first time.")?;
    WINDOWS_EXAMPLE.lines().try_for_each(|line| writeln!(out, "# {line}"))?;
    writeln!(out)
}

/// Nights, and Sunday mornings by a pattern of cron: minute, hour, day of the month, month, day of the week.
const WINDOWS_EXAMPLE: &str = r#"[windows]
zone = "Europe/Berlin"
[[windows.weekly]]
name = "night"
days = ["mon", "tue", "wed", "thu", "fri"]
from = "22:00"
until = "05:00"
[[windows.cron]]
name = "sunday"
opens = "0 2 * * sun"
open_s = 14400
[windows.tier]
1 = { mode = "strict", windows = ["night", "sunday"] }
2 = { mode = "preferred", windows = ["night"] }
3 = { mode = "any" }"#;

fn joined(items: impl Iterator<Item = impl ToString>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

/// A text as TOML writes it.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lunar_common::document::Document;
    use lunar_common::plan::Plan;

    fn draft() -> Draft {
        let id = |byte| ArtifactId([byte; 32]);
        Draft {
            fleet: FleetId::new("moon").unwrap(),
            campaign: CampaignId::new("web-2").unwrap(),
            generation: 3,
            author: KeyName::new("ann").unwrap(),
            issued: WallTime(1_795_248_000),
            expires: WallTime(1_795_334_400),
            description: "a \"quoted\" text\nof two lines, with a \\".into(),
            tiers: vec![Tier::Two],
            sites: vec![SiteId::new("base").unwrap()],
            unit: None,
            restart: Vec::new(),
            http: None,
            artifacts: vec![DraftArtifact {
                name: ArtifactName::new("web").unwrap(),
                version: Version::new("2").unwrap(),
                id: id(2),
                manifest_bytes: 99,
                bytes: 1000,
                from: vec![(Version::new("1").unwrap(), id(1))],
            }],
        }
    }

    #[test]
    fn every_variant_of_a_new_plan_passes_its_own_checks() {
        let plain = Plan::parse(draft().text().as_bytes()).unwrap();
        assert_eq!(plain.description, draft().description);
        assert_eq!(plain.limits, Limits::default());

        let bare = Draft {
            tiers: Vec::new(),
            sites: Vec::new(),
            http: Some("http://127.0.0.1:80/".into()),
            ..draft()
        };
        assert!(Plan::parse(bare.text().as_bytes()).unwrap().select.tiers.is_empty());

        let mut command =
            Draft { restart: vec!["/bin/sh".into(), "-c".into(), "echo \"x\"".into()], ..draft() };
        command.artifacts[0].from.clear();
        Plan::parse(command.text().as_bytes()).unwrap();
    }

    #[test]
    fn the_windows_that_are_shown_as_an_example_are_ones_that_a_plan_may_have() {
        let week = Draft { expires: WallTime(1_795_248_000 + 7 * 86_400), ..draft() }.text();
        let shown: Vec<String> = WINDOWS_EXAMPLE.lines().map(|line| format!("# {line}")).collect();
        let open: String = week
            .lines()
            .map(|line| if shown.iter().any(|example| example == line) { &line[2..] } else { line })
            .collect::<Vec<_>>()
            .join("\n");
        let windows = Plan::parse(open.as_bytes()).unwrap().windows.unwrap();
        assert_eq!((windows.weekly.len(), windows.cron.len()), (1, 1));
        assert_eq!(Plan::parse(week.as_bytes()).unwrap().windows, None);
    }

    #[test]
    fn the_defaults_that_are_shown_as_comments_are_the_defaults() {
        // Uncommented, but for the examples, the plan is the same.
        let text = draft().text();
        let shown = [
            "# fleet =",
            "# group =",
            "# tier =",
            "# start_",
            "# down_",
            "# commit_",
            "# window_",
            "# jitter_",
            "# attempts",
            "# base_",
            "# cap_",
        ];
        let open: String = text
            .lines()
            .map(|line| if shown.iter().any(|start| line.starts_with(start)) { &line[2..] } else { line })
            .collect::<Vec<_>>()
            .join("\n");
        assert_ne!(open, text);
        assert_eq!(Plan::parse(open.as_bytes()).unwrap(), Plan::parse(text.as_bytes()).unwrap());
    }
}
