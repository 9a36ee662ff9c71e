//! The text of a new plan: every key with the reason a person would change it.
//!
//! Owns the template. Main invariant: what it writes parses, passes the plan's checks, and shows every default
//! as a comment, so that nobody has to guess what a key that is not there means.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use lunar_common::ids::{ArtifactId, ArtifactName, CampaignId, FleetId, KeyName, SiteId, StageName, Version};
use lunar_common::inventory::InventoryServer;
use lunar_common::limits::{Limits, Tier};
use lunar_common::plan::{LeaseTerms, Retry, Select, Spread, Stage, StopRules};
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
    pub(super) stages: Vec<Stage>,
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
        write_stop(out, &StopRules::default())?;
        self.write_health(out)?;
        self.write_stages(out)
    }

    fn write_stages(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "# Who goes first. A server belongs to the first stage that selects it and has room for it. A stage begins\n\
             # when the one before it, or those in `after = [\"…\"]`, have passed: of 10,000 servers, and of 10,000 attempts,\n\
             # so many succeeded, and that held for soak_s. `size` or `percent`: only so many of those selected, drawn by\n\
             # the plan's hash. `wave_max`: starts in waves of 1, 2, 4, … up to it. Selectors take groups and labels too, as\n\
             # in select = {{ labels = {{ pool = [\"staging\"] }} }}. `windows = [\"night\"]`: only in that maintenance window,\n\
             # beside what the tier is held to. `approval_batch = 25`: people sign for every 25 servers before one of them\n\
             # starts (`batches`, `approve`; the author may not). Without stages, all may start at once.\n"
        )?;
        writeln!(
            out,
            "# Who waits for whom, beside the stages (followers before leaders, one service before another):\n\
             # [[order]]\n# within = \"cluster\"     # or group, site; left out: all of the campaign\n\
             # select = {{ labels = {{ role = [\"leader\"] }} }}\n# after = {{ labels = {{ role = [\"follower\"] }} }}\n"
        )?;
        for stage in &self.stages {
            writeln!(out, "[[stages]]\nname = \"{}\"", stage.name)?;
            for (key, value) in [
                ("size", stage.size),
                ("percent", stage.percent),
                ("wave_max", stage.wave_max),
                ("approval_batch", stage.approval_batch),
            ] {
                if let Some(value) = value {
                    writeln!(out, "{key} = {value}")?;
                }
            }
            writeln!(out, "success_per_10000 = {}\nsoak_s = {}", stage.success_per_10000, stage.soak_s)?;
            if !stage.windows.is_empty() {
                writeln!(
                    out,
                    "windows = [{}]",
                    joined(stage.windows.iter().map(|name| quoted(name.as_str())))
                )?;
            }
            let labels = stage.select.labels.iter().map(|(name, values)| {
                format!("{} = [{}]", quoted(name), joined(values.iter().map(|value| quoted(value))))
            });
            let labels = joined(labels);
            match (stage.select.tiers.is_empty(), labels.is_empty()) {
                (false, _) => {
                    writeln!(out, "select = {{ tiers = [{}] }}\n", joined(stage.select.tiers.iter()))?
                }
                (true, false) => writeln!(out, "select = {{ labels = {{ {labels} }} }}\n")?,
                (true, true) => writeln!(out)?,
            }
        }
        Ok(())
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

/// Hours, as a stage's soak.
const HOUR_S: u32 = 3600;

/// Clean servers that show less than one failure in ten at 95 % confidence: 0.95 = 1 − 0.9²⁹.
const CANARY_SERVERS: u32 = 29;

/// Servers of tier 1 that people approve together: few enough to look at, and 200 times for 5,000. The next batch can be
/// approved while one runs, so that nobody waits for people who are quick.
const APPROVAL_BATCH: u32 = 25;

/// The stages of a new plan (B5, C1 to C3): the servers labelled `pool = "staging"`, a canary of the least critical
/// tier, then tier by tier up to tier 1. Those in which none of the servers known would be are left out; where none
/// is known, only the staging pool is. Soaks are a day after the staging pool, so that a fault of the night shows,
/// an hour after the canary, six and twelve hours after tiers 3 and 2; failures are those that D6 allows. Where anybody
/// holds the role, people approve what starts in tier 1.
pub(super) fn default_stages(tiers: &[Tier], servers: &[InventoryServer], approvers: bool) -> Vec<Stage> {
    let selected = |tier: Tier| tiers.is_empty() || tiers.contains(&tier);
    let known: Vec<&InventoryServer> = servers.iter().filter(|server| selected(server.tier)).collect();
    let staging = |server: &InventoryServer| server.labels.get("pool").is_some_and(|pool| pool == "staging");
    let stage = |name: &str, success_per_10000, soak_s, select| Stage {
        name: StageName::new(name).expect("a name"),
        after: None,
        size: None,
        percent: None,
        wave_max: None,
        success_per_10000,
        soak_s,
        approval_batch: None,
        windows: Vec::new(),
        select,
    };
    let of_tier = |tier| Select { tiers: BTreeSet::from([tier]), ..Select::default() };
    let mut stages = Vec::new();
    if known.iter().any(|server| staging(server)) {
        let pool = BTreeMap::from([("pool".to_owned(), BTreeSet::from(["staging".to_owned()]))]);
        stages.push(stage("staging", 10_000, 24 * HOUR_S, Select { labels: pool, ..Select::default() }));
    }
    let mut canary = true;
    for (tier, success_per_10000, soak_s) in
        [(Tier::Three, 9_800, 6 * HOUR_S), (Tier::Two, 9_950, 12 * HOUR_S), (Tier::One, 10_000, 0)]
    {
        let count = known.iter().filter(|server| server.tier == tier && !staging(server)).count();
        if !selected(tier) || (count == 0 && !known.is_empty()) {
            continue;
        }
        // A tier of one server has no canary of its own.
        if std::mem::take(&mut canary) && count != 1 {
            let few = (1..10 * CANARY_SERVERS as usize).contains(&count);
            stages.push(Stage {
                size: (!few).then_some(CANARY_SERVERS),
                percent: few.then_some(10),
                wave_max: Some(8),
                ..stage("canary", 10_000, HOUR_S, of_tier(tier))
            });
        }
        let wave_max = (tier == Tier::One).then_some(5).or(Some(64));
        stages.push(Stage {
            wave_max,
            ..stage(&format!("tier-{tier}"), success_per_10000, soak_s, of_tier(tier))
        });
    }
    for stage in stages.iter_mut().filter(|stage| approvers && stage.select.tiers.contains(&Tier::One)) {
        stage.approval_batch = Some(APPROVAL_BATCH);
    }
    stages
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

/// What pauses the campaign, written out: whoever signs the plan signs its tables.
fn write_stop(out: &mut String, rules: &StopRules) -> std::fmt::Result {
    writeln!(
        out,
        "# What pauses the campaign, or a part of it, until a signed resume names the pause. failed: so many servers failed.\n\
         # within: a sequential test; its first number says within how many servers tried one failure is too many, its\n\
         # second within how many two are, and so on (0: never). These are Wald's tables with 1 % of false stops and 5 %\n\
         # of missed ones: 0.1 % against 0.5 % in tier 2, 0.5 % against 2 % in tier 3, 0.5 % against 5 % in a place.\n\
         # silent: so many servers went down by their leases and have not been heard of since."
    )?;
    writeln!(out, "[stop]\nfailed = {}\nmodel_label = {}", rules.failed, quoted(&rules.model_label))?;
    let storm = &rules.storm;
    writeln!(
        out,
        "# So many of the last attempts were rolled back.\nstorm = {{ rolled_back = {}, of = {} }}",
        storm.rolled_back, storm.of
    )?;
    let hold = &rules.hold;
    writeln!(
        out,
        "# So many of a tier's last upgrades took longer than so many percent of the median of those before (of at least\n\
         # so many samples), and longer than floor_s.\n\
         hold = {{ percent = {}, slow = {}, of = {}, samples = {}, floor_s = {} }}",
        hold.percent, hold.slow, hold.of, hold.samples, hold.floor_s
    )?;
    writeln!(
        out,
        "# Of one site, or of one hardware model (the value of the label above).\n\
         place = {{ failed = {}, within = [{}] }}\n\n[stop.tier]",
        rules.place.failed,
        joined(rules.place.within.iter())
    )?;
    for tier in Tier::ALL {
        let stop = rules.tier.of(tier);
        writeln!(
            out,
            "{tier} = {{ failed = {}, silent = {}, within = [{}] }}",
            stop.failed,
            stop.silent,
            joined(stop.within.iter())
        )?;
    }
    writeln!(out)
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

pub(super) fn joined(items: impl Iterator<Item = impl ToString>) -> String {
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
    use lunar_common::inventory::Inventory;
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
            stages: default_stages(&[Tier::Two], &[], true),
        }
    }

    #[test]
    fn every_variant_of_a_new_plan_passes_its_own_checks() {
        let plain = Plan::parse(draft().text().as_bytes()).unwrap();
        assert_eq!(plain.description, draft().description);
        assert_eq!(plain.limits, Limits::default());
        assert_eq!(plain.stages, draft().stages);
        assert_eq!(plain.stop, StopRules::default());
        assert!(draft().text().contains("within = [0, 0, 71, 473, 875, "), "the table is there to be signed");

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
    fn a_new_plan_goes_from_the_staging_pool_and_a_canary_up_to_tier_1_as_far_as_there_are_servers() {
        let names = |stages: &[Stage]| stages.iter().map(|stage| stage.name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(&default_stages(&[], &[], true)), ["canary", "tier-3", "tier-2", "tier-1"]);
        assert_eq!(names(&default_stages(&[Tier::One], &[], true)), ["canary", "tier-1"]);
        let fleet = "format = 1\n[[servers]]\nname = \"lab\"\ncount = 1000\ntier = 3\nsite = \"base\"\n\
            [[servers]]\nname = \"air\"\ncount = 50\ntier = 1\nsite = \"base\"\n\
            [[servers]]\nname = \"pool\"\ncount = 5\ntier = 2\nsite = \"base\"\nlabels = { pool = \"staging\" }\n";
        let servers = Inventory::parse(fleet.as_bytes()).unwrap().servers;
        let stages = default_stages(&[], &servers, true);
        assert_eq!(names(&stages), ["staging", "canary", "tier-3", "tier-1"]);
        assert_eq!((stages[1].size, stages[1].percent), (Some(29), None));
        let text = Draft { tiers: Vec::new(), stages: stages.clone(), ..draft() }.text();
        assert_eq!(Plan::parse(text.as_bytes()).unwrap().stages, stages);
        let asked = |stages: &[Stage]| stages.iter().map(|stage| stage.approval_batch).collect::<Vec<_>>();
        assert_eq!(asked(&stages), [None, None, None, Some(25)]);
        assert_eq!(asked(&default_stages(&[], &servers, false)), [None; 4], "nobody could approve anything");
        let only = default_stages(&[Tier::One], &servers, true);
        assert_eq!(asked(&only), [Some(25); 2], "a canary of tier 1 is approved too");
        assert_eq!(names(&only), ["canary", "tier-1"]);
        assert_eq!((only[0].size, only[0].percent), (None, Some(10)));
        let alone =
            Inventory::parse(b"format = 1\n[[servers]]\nname = \"a\"\ntier = 3\nsite = \"b\"\n").unwrap();
        assert_eq!(names(&default_stages(&[], &alone.servers, true)), ["tier-3"]);
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
