//! The report of one run as one HTML page that stands alone.
//!
//! Owns the page. Main invariant: it asks for nothing, neither a script nor a font nor a picture from elsewhere, so
//! that it is the same from a disk, in a mail and in ten years.

mod plot;

use std::fmt::Write as _;

use lunar_common::limits::Tier;
use lunar_simulations::Scenario;
use lunar_simulations::measure::{Series, State};

use super::report::{days, length};
use super::result::{RunResult, Verdict};
use super::words::{bytes, count, duration, percent, rate, times};
use plot::{Plot, whole};

const STYLE: &str = include_str!("style.css");

/// The whole page.
pub(crate) fn html(result: &RunResult, scenario: &Scenario) -> String {
    let title = format!("{}, seed {}", escaped(&result.scenario), result.seed);
    let parts = [
        head(result, &title),
        tiles(result),
        states(result),
        down(result, scenario),
        completion(result),
        links(result, scenario),
        tables(result),
    ];
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title}: {}</title><style>\n{STYLE}</style></head><body><main>\n{}\n</main></body></html>\n",
        result.verdict.words(),
        parts.join("\n")
    )
}

fn head(result: &RunResult, title: &str) -> String {
    let class = if result.verdict == Verdict::Held { "held" } else { "broke" };
    let mut text = format!(
        "<header><h1>{title} <span class=\"verdict {class}\">{}</span></h1><p>{}</p>",
        result.verdict.words(),
        escaped(&result.description)
    );
    if let Some(violation) = &result.violation {
        let _ = write!(
            text,
            "<p class=\"violation\"><b>{}</b> at {}: {}</p>",
            escaped(&violation.invariant),
            duration(violation.at_ms),
            escaped(&violation.what)
        );
    }
    text + "</header>"
}

fn tiles(result: &RunResult) -> String {
    let figures = &result.figures;
    let completed: u64 = figures.tiers.iter().map(|tier| tier.completed).sum();
    let back: u64 = figures.tiers.iter().map(|tier| tier.back).sum();
    let checked: u64 = figures.checks.values().sum();
    let limits_held = figures.down.iter().all(|down| down.limit.is_none_or(|limit| down.most <= limit));
    let done = figures.tiers.iter().map(|tier| tier.done_ms).collect::<Option<Vec<_>>>();
    let done = done.and_then(|ends| ends.into_iter().max());
    let links = &figures.links;
    let last = links.last_byte_ms.map_or_else(|| "–".to_owned(), duration);
    let over_earth =
        if carried(result) { times(links.earth_bytes, links.artifact_bytes) } else { "–".to_owned() };
    let tiles = [
        (done.map_or_else(|| "not done".to_owned(), duration), format!("campaign, of {}", days(result))),
        (
            percent(completed, figures.servers),
            format!("{} of {} complete, {} back", count(completed), count(figures.servers), count(back)),
        ),
        (
            if limits_held { "kept" } else { "<em>broken</em>" }.to_owned(),
            "every limit on servers down".to_owned(),
        ),
        (over_earth, "the artifact over the link to Earth".to_owned()),
        (last, "until the last server had every byte".to_owned()),
        (count(checked), format!("checks of {} invariants", figures.checks.len())),
    ];
    let tile = |(number, words): &(String, String)| {
        format!("<div class=\"tile\"><b>{number}</b><span>{words}</span></div>")
    };
    format!("<section class=\"tiles\">{}</section>", tiles.iter().map(tile).collect::<String>())
}

/// Where the picture of the servers ends.
fn end_ms(series: &Series) -> u64 {
    series.servers_step_ms * (series.servers.len().max(2) as u64 - 1)
}

fn states(result: &RunResult) -> String {
    let series = &result.series;
    let servers = whole(result.figures.servers);
    let mut plot = Plot::new((1_000, 300), end_ms(series), servers, "", "Servers by state over time");
    let mut low = vec![0.0; series.servers.len()];
    let mut legend = String::new();
    for (number, state) in State::ALL.into_iter().enumerate() {
        let here = series.servers.iter().map(|step| step.states[number]);
        if here.clone().all(|servers| servers == 0) {
            continue;
        }
        let high: Vec<f64> = here.zip(&low).map(|(servers, low)| low + f64::from(servers)).collect();
        plot.area(&format!("s{number}"), series.servers_step_ms, &low, &high, state.name());
        let _ = write!(legend, "<span class=\"key s{number}\">{}</span>", state.name());
        low = high;
    }
    figure("Servers by state", "", &legend, &plot.end())
}

fn down(result: &RunResult, scenario: &Scenario) -> String {
    let series = &result.series;
    let mut plots = String::new();
    for tier in Tier::ALL.into_iter().filter(|tier| scenario.fleet.tier.of(*tier) > 0) {
        let number = usize::from(tier.number() - 1);
        let limit = f64::from(scenario.limits.tier.of(tier));
        let values: Vec<f64> = series.servers.iter().map(|step| f64::from(step.down[number])).collect();
        let most = values.iter().copied().fold(limit, f64::max);
        let title = format!("Tier {tier}: servers down at once");
        let mut plot = Plot::new((350, 200), end_ms(series), most * 1.15, "", &title);
        plot.steps(&format!("t{number} filled"), series.servers_step_ms, &values, &title);
        plot.limit(limit, &format!("limit {limit}"));
        let _ = write!(plots, "<div><h3>Tier {tier}</h3>{}</div>", plot.end());
    }
    let words = "The most at once in each step of the picture, against the limit of the tier.";
    figure("Down at once", words, "", &format!("<div class=\"three\">{plots}</div>"))
}

fn completion(result: &RunResult) -> String {
    let series = &result.series;
    let mut plot = Plot::new((1_000, 220), end_ms(series), 100.0, "%", "Servers at an end, by tier");
    let mut legend = String::new();
    for of in &result.figures.tiers {
        let number = usize::from(of.tier.number() - 1);
        let share = |ended: u32| f64::from(ended) * 100.0 / whole(of.servers.max(1));
        let values: Vec<f64> = series.servers.iter().map(|step| share(step.ended[number])).collect();
        let done =
            of.done_ms.map_or_else(|| "not done".to_owned(), |at| format!("done after {}", duration(at)));
        let title = format!("tier {}: {done}", of.tier);
        plot.line(&format!("t{number} drawn"), series.servers_step_ms, &values, &title);
        let _ = write!(legend, "<span class=\"key t{number}\">{title}</span>");
    }
    figure(
        "Completion",
        "Servers at an end, on the new version or safely back on the old.",
        &legend,
        &plot.end(),
    )
}

/// Whether any chunk was carried at all.
fn carried(result: &RunResult) -> bool {
    let links = &result.figures.links;
    links.earth_bytes + links.between_bytes + links.within_bytes > 0
}

fn links(result: &RunResult, scenario: &Scenario) -> String {
    if !carried(result) {
        return figure("Link use", "No chunk was carried in this world.", "", "");
    }
    let series = &result.series;
    let step_ms = series.links_step_ms.max(1);
    let earth = &scenario.links.earth;
    // Bytes flow early: the picture ends with them, and a little later.
    let last = series.links.iter().rposition(|step| step.earth > 0 || step.between > 0);
    let steps = &series.links[..last.map_or(0, |last| last + 1)];
    let end = step_ms * (steps.len() as u64 + steps.len() as u64 / 12 + 1);
    let mbit_s = |bytes: u64| whole(bytes) * 8.0 / 1e3 / whole(step_ms);
    let mut plots = String::new();
    let limit = whole(earth.rate_bit_s) / 1e6;
    let values: Vec<f64> = steps.iter().map(|step| mbit_s(step.earth)).collect();
    let most = values.iter().copied().fold(limit, f64::max) * 1.2;
    let mut plot = Plot::new((520, 230), end, most, "Mbit/s", "Link to Earth");
    for dark in &earth.blackouts {
        let until_s = dark.from_s + dark.for_s;
        plot.shade(
            "dark",
            dark.from_s * 1_000,
            until_s * 1_000,
            &format!("blackout of {}", duration(dark.for_s * 1_000)),
        );
    }
    plot.steps("earth", step_ms, &values, "Chunks over the link to Earth");
    plot.limit(limit, &rate(earth.rate_bit_s));
    let _ = write!(plots, "<div><h3>Link to Earth</h3>{}</div>", plot.end());
    let values: Vec<f64> = steps.iter().map(|step| mbit_s(step.between)).collect();
    let most = values.iter().copied().fold(1.0, f64::max) * 1.2;
    let mut plot = Plot::new((520, 230), end, most, "Mbit/s", "Between sites");
    plot.steps("between", step_ms, &values, "Chunks between sites");
    let _ = write!(plots, "<div><h3>Between sites, all together</h3>{}</div>", plot.end());
    let words = format!(
        "Chunks alone, averaged over steps of {}, from the beginning until the last chunk.",
        duration(step_ms)
    );
    let key = "<span class=\"key dark\">blackout</span>";
    let legend = if earth.blackouts.iter().any(|dark| dark.from_s * 1_000 < end) { key } else { "" };
    figure("Link use", &words, legend, &format!("<div class=\"two\">{plots}</div>"))
}

fn figure(title: &str, words: &str, legend: &str, body: &str) -> String {
    let words = if words.is_empty() { String::new() } else { format!("<p>{words}</p>") };
    let legend =
        if legend.is_empty() { String::new() } else { format!("<div class=\"legend\">{legend}</div>") };
    format!("<section><h2>{title}</h2>{words}{legend}{body}</section>")
}

fn tables(result: &RunResult) -> String {
    let figures = &result.figures;
    let time = |at: Option<u64>| at.map_or_else(|| "–".to_owned(), duration);
    let tiers = figures.tiers.iter().map(|of| {
        vec![
            format!("tier {}", of.tier),
            count(of.servers),
            count(of.completed),
            count(of.back),
            count(of.servers - of.completed - of.back),
            time(of.first_down_ms),
            time(of.done_ms),
        ]
    });
    let down = figures.down.iter().map(|down| {
        let limit = down.limit.map_or_else(|| "–".to_owned(), count);
        let at = (down.most > 0).then_some(down.at_ms);
        vec![escaped(&down.scope), count(down.most), limit, time(at)]
    });
    let links = &figures.links;
    let ways = [
        ("Earth", links.earth_bytes),
        ("between sites", links.between_bytes),
        ("inside sites", links.within_bytes),
        ("Earth, control", links.earth_control_bytes),
    ];
    let ways = ways
        .into_iter()
        .map(|(way, carried)| vec![way.to_owned(), bytes(carried), times(carried, links.artifact_bytes)]);
    let checks = figures.checks.iter().map(|(name, times)| vec![escaped(name), count(*times)]);
    let run = [
        ("campaign", length(result)),
        ("events", count(figures.events)),
        ("rollbacks", count(figures.rollbacks)),
        ("halts", count(figures.halts)),
        ("strikes in the plan of faults", count(result.strikes as u64)),
        ("swarm messages", count(figures.swarm_messages)),
        ("useful chunks", count(figures.useful_chunks)),
        ("trace", result.trace.clone()),
        (
            "this machine needed",
            format!("{}, {} events/s", duration(result.took.wall_ms), count(result.took.events_per_s)),
        ),
        ("program", format!("lunar-simulations {}", escaped(&result.program))),
    ];
    let run = run.into_iter().map(|(name, value)| vec![name.to_owned(), value]);
    let parts = [
        table("Tiers", &["", "servers", "complete", "back", "not at an end", "first down", "done"], tiers),
        table("Most down at once", &["", "most", "limit", "first at"], down),
        table("Bytes", &["", "chunks", "of the artifact"], ways),
        table("Invariants checked", &["", "times"], checks),
        table("Run", &["", ""], run),
    ];
    format!("<section><h2>Figures</h2><div class=\"tables\">{}</div></section>", parts.concat())
}

fn table(title: &str, heads: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = String>| {
        format!("<tr>{}</tr>", cells.map(|cell| format!("<{tag}>{cell}</{tag}>")).collect::<String>())
    };
    let mut text = format!("<div><h3>{title}</h3><table>");
    if heads.iter().any(|head| !head.is_empty()) {
        text += &cells("th", &mut heads.iter().map(|head| (*head).to_owned()));
    }
    for row in rows {
        text += &cells("td", &mut row.into_iter());
    }
    text + "</table></div>"
}

/// A text in a page: nothing in it is markup.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
