//! `plan check --simulate`: the campaign as it would run, in words.
//!
//! Owns the text of a forecast. Main invariant: every figure says of how many runs it is, and the arithmetic stands
//! beside it. Refuses to run anything: `lunar_simulations::forecast` does.

use std::fmt::Write as _;

use lunar_simulations::forecast::Forecast;

/// The forecast for people. `closed_s`: the end by the planner's arithmetic.
pub(super) fn human(forecast: &Forecast, closed_s: Option<u64>) -> String {
    let Forecast { seeds, unfinished, median_s, p95_s, tiers, down, .. } = forecast;
    let ended = seeds - unfinished;
    let mut text = format!(
        "simulated: {ended} of {seeds} runs ended; the middle one after {}, 19 of 20 within {}\n",
        span(*median_s),
        span(*p95_s)
    );
    let mut say = |line: String| {
        let _ = writeln!(text, "  {line}");
    };
    if let (Some(closed_s), Some(begins_s)) = (closed_s, tiers.iter().map(|tier| tier.first_down_s).min()) {
        say(format!(
            "by arithmetic {} from the first server down, simulated {}, after {} in which servers fetch",
            span(closed_s),
            span(median_s.saturating_sub(begins_s)),
            span(begins_s)
        ));
    }
    for tier in tiers {
        let (from, until) = (span(tier.first_down_s), span(tier.median_s));
        say(format!("tier {}: servers are down from {from} to {until}", tier.tier));
    }
    for scope in down {
        let limit = scope.limit.map_or_else(String::new, |limit| format!(" of {limit}"));
        let first = span(scope.at_ms / 1_000);
        say(format!("{}: {}{limit} down at once, first after {first}", scope.scope, scope.most));
    }
    if forecast.earth_bytes > 0 {
        let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
        say(format!(
            "link to Earth: {} MB for an artifact of {} MB; the last byte after {}",
            megabytes(forecast.earth_bytes),
            megabytes(forecast.artifact_bytes),
            span(forecast.last_byte_s)
        ));
    }
    text
}

/// A time in hours, minutes and seconds, as far as they say anything.
fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds.div_ceil(60)),
        7_200..172_800 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        172_800.. => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}
