//! The report of one run, for a terminal.
//!
//! Owns the text. Main invariant: it follows from the seed alone, to the last digit: what depends on the machine is
//! told elsewhere.

use std::fmt::{self, Write as _};

use lunar_simulations::measure::{DownFigures, Figures, TierFigures};

use super::result::{RunResult, Verdict};
use super::words::{bytes, count, duration, percent, times};

/// The whole report.
pub(crate) fn text(result: &RunResult) -> String {
    let mut text = String::new();
    write(&mut text, result).expect("a text takes a text");
    text
}

fn write(text: &mut String, result: &RunResult) -> fmt::Result {
    let figures = &result.figures;
    writeln!(text, "{}, seed {}: {}", result.scenario, result.seed, result.verdict.words())?;
    writeln!(text, "{}\n", result.description)?;
    campaign(text, result)?;
    down(text, &figures.down)?;
    links(text, figures)?;
    writeln!(text, "Rollbacks         {}", count(figures.rollbacks))?;
    writeln!(text, "Halts             {}", count(figures.halts))?;
    writeln!(text, "Strikes planned   {}\n", count(result.strikes as u64))?;
    checks(text, figures)?;
    if let Some(violation) = &result.violation {
        writeln!(text, "Violated at {}: {}", duration(violation.at_ms), violation.invariant)?;
        writeln!(text, "  {}\n", violation.what.replace('\n', "\n  "))?;
    }
    writeln!(text, "Verdict: {}", sentence(result))?;
    writeln!(text, "trace {}", result.trace)
}

fn campaign(text: &mut String, result: &RunResult) -> fmt::Result {
    let figures = &result.figures;
    writeln!(text, "Campaign          {}", length(result))?;
    for tier in &figures.tiers {
        let name = format!("tier {}", tier.tier);
        writeln!(text, "  {name:<16}{}", of_tier(tier))?;
    }
    writeln!(text)
}

/// How long the campaign took, against its days.
pub(crate) fn length(result: &RunResult) -> String {
    let ends: Option<Vec<u64>> = result.figures.tiers.iter().map(|tier| tier.done_ms).collect();
    match ends.and_then(|ends| ends.into_iter().max()) {
        Some(done) => format!("done after {}, of {}", duration(done), days(result)),
        None => format!("not done after {}, of {}", duration(result.figures.ended_ms), days(result)),
    }
}

/// The campaign's time.
pub(crate) fn days(result: &RunResult) -> String {
    if result.days == 1 { "1 day".to_owned() } else { format!("{} days", result.days) }
}

fn of_tier(tier: &TierFigures) -> String {
    let TierFigures { servers, completed, back, first_down_ms, done_ms, .. } = tier;
    let left = servers - completed - back;
    let mut text =
        format!("{} servers: {} complete, {} back", count(*servers), count(*completed), count(*back));
    if left > 0 {
        let _ = write!(text, ", {} not at an end", count(left));
    }
    match (first_down_ms, done_ms) {
        (Some(first), Some(done)) => {
            let _ = write!(text, "; from {} to {}", duration(*first), duration(*done));
        }
        (Some(first), None) => {
            let _ = write!(text, "; since {}", duration(*first));
        }
        (None, _) => text.push_str("; none was down"),
    }
    text
}

fn down(text: &mut String, down: &[DownFigures]) -> fmt::Result {
    let wide = down.iter().map(|down| down.scope.chars().count()).max().unwrap_or(0).max(15) + 1;
    writeln!(text, "{:<wide$}  {:>6}{:>7}  first at", "Down at once", "most", "limit")?;
    for DownFigures { scope, most, at_ms, limit } in down {
        let limit = limit.map_or_else(|| "–".to_owned(), count);
        let at = if *most > 0 { duration(*at_ms) } else { "–".to_owned() };
        writeln!(text, "  {scope:<wide$}{most:>6}{limit:>7}  {at}")?;
    }
    writeln!(text)
}

fn links(text: &mut String, figures: &Figures) -> fmt::Result {
    let links = &figures.links;
    let once = links.artifact_bytes;
    if links.earth_bytes + links.between_bytes + links.within_bytes == 0 {
        return writeln!(text, "Links             no chunk was carried in this world\n");
    }
    writeln!(text, "Links             chunks, as multiples of the artifact ({})", bytes(once))?;
    for (way, carried) in [
        ("Earth", links.earth_bytes),
        ("between sites", links.between_bytes),
        ("inside sites", links.within_bytes),
    ] {
        writeln!(text, "  {way:<16}{:>12}  {:>9}", bytes(carried), times(carried, once))?;
    }
    if links.earth_control_bytes > 0 {
        writeln!(text, "  {:<16}{:>12}", "Earth, control", bytes(links.earth_control_bytes))?;
    }
    let wanted = figures.servers.saturating_mul(once);
    let from_peers = wanted.saturating_sub(links.earth_bytes);
    writeln!(text, "  {:<16}{:>12}", "from peers", percent(from_peers, wanted))?;
    if let Some(at) = links.earth_last_ms {
        writeln!(text, "  last from Earth {:>12}", duration(at))?;
    }
    match links.last_byte_ms {
        Some(at) => writeln!(text, "  last byte       {:>12}", duration(at))?,
        None => writeln!(text, "  last byte       some servers never had all bytes")?,
    }
    if let Some(tenths) = (figures.swarm_messages * 10).checked_div(figures.useful_chunks) {
        let told = format!("{}.{}", tenths / 10, tenths % 10);
        writeln!(text, "  messages        {told:>12} a useful chunk")?;
    }
    writeln!(text)
}

fn checks(text: &mut String, figures: &Figures) -> fmt::Result {
    writeln!(text, "Checked           {} events", count(figures.events))?;
    for (invariant, times) in &figures.checks {
        writeln!(text, "  {invariant:<44}{:>16} times", count(*times))?;
    }
    writeln!(text)
}

fn sentence(result: &RunResult) -> String {
    let late = u64::from(result.days) * 86_400_000 < result.figures.ended_ms;
    match result.verdict {
        Verdict::Held if late => "held, but past the campaign's days.".to_owned(),
        Verdict::Held => "held. Nothing that must never happen did, and everyone came to an end.".to_owned(),
        Verdict::Broke => "an invariant broke. What happened last stands above the report.".to_owned(),
        Verdict::NotConverged => "nothing broke, but not everyone came to an end in time.".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::result::{FORMAT, Took, Violated};
    use lunar_simulations::Scenario;
    use lunar_simulations::measure::{Measure, State, Way};

    /// A run of the small world as a person would make it up, so that its report changes with the report alone.
    fn made_up() -> RunResult {
        let scenario = Scenario::small(7);
        let mut measure = Measure::new(&scenario, &scenario.seats());
        for server in 0..7 {
            let begins = 10_000 + server as u64 * 40_000;
            measure.server(begins, server, State::Fetching, false);
            measure.useful_chunks(16);
            measure.swarm_messages(45);
            measure.has_all(begins + 9_000, server);
            measure.server(begins + 10_000, server, State::Down, true);
            if server == 4 {
                measure.server(begins + 30_000, server, State::RollingBack, true);
                measure.server(begins + 35_000, server, State::Back, false);
            } else {
                measure.server(begins + 30_000, server, State::Complete, false);
            }
        }
        measure.carried(12_000, Way::Earth, 4_194_304);
        measure.carried(13_000, Way::Between, 4_194_304);
        measure.carried(20_000, Way::Within, 20_971_520);
        measure.earth_control(1_234);
        measure.halted();
        measure.checked("S1 lease", 1_234_567);
        let (figures, series) = measure.finish(&scenario, 300_000, 98_765);
        RunResult {
            format: FORMAT,
            program: "0.0.0".to_owned(),
            scenario: "small".to_owned(),
            description: scenario.description,
            seed: 7,
            strikes: 3,
            days: 1,
            verdict: Verdict::Held,
            violation: None,
            trace: "00000000000000ff".to_owned(),
            figures,
            series,
            took: Took { wall_ms: 1, events_per_s: 1 },
        }
    }

    #[test]
    fn the_report_of_a_run_reads_as_it_was_agreed() {
        assert_eq!(text(&made_up()), include_str!("report.golden.txt"));
    }

    #[test]
    fn the_report_of_a_violation_says_what_and_when() {
        let violation =
            Violated { invariant: "S2 limits".to_owned(), what: "two\nlines".to_owned(), at_ms: 61_500 };
        let broken = RunResult { verdict: Verdict::Broke, violation: Some(violation), ..made_up() };
        let text = text(&broken);
        assert!(text.starts_with("small, seed 7: an invariant broke\n"), "{text}");
        assert!(text.contains("Violated at 61.5 s: S2 limits\n  two\n  lines\n"), "{text}");
    }
}
