//! The forecast of a plan against the planner's closed form.
//!
//! Owns the agreement of the two. Main invariant: where they differ by more than a twentieth, one of them is wrong.

use std::sync::Arc;

use lunar_common::document::Document;
use lunar_common::inventory::Inventory;
use lunar_common::plan::Plan;
use lunar_common::time::WallTime;
use lunar_coordinator_core::planner::{self, Assumptions, Calendar};
use lunar_simulations::forecast::{Forecast, scenario_of};

const DAY_S: u64 = 86_400;

fn plan(limits: &str) -> Plan {
    let id = |digit: &str| digit.repeat(64);
    let text = format!(
        "format = 1\nfleet = \"moon\"\ncampaign = \"web-2\"\ngeneration = 1\nauthor = \"ann\"\n\
         issued = \"2026-11-21T08:00:00Z\"\nexpires = \"2026-11-23T08:00:00Z\"\n\
         [[artifact]]\nname = \"web\"\nversion = \"2\"\nid = \"{}\"\nmanifest_bytes = 1000\nbytes = 10000000\n\
         [[artifact.from]]\nversion = \"1\"\nid = \"{}\"\n\
         [install]\nkind = \"release\"\nrestart = {{ unit = \"web.service\" }}\n{limits}\
         [health]\nsoak_s = 180\nsettle_s = 30\ninterval_s = 30\n\
         [[health.probe]]\nname = \"up\"\nkind = \"tcp\"\naddress = \"127.0.0.1:80\"\n",
        id("2"),
        id("1")
    );
    Plan::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

/// Enough that one round of a tier's slots more or less, which is luck, is not a twentieth.
const SERVERS: &str = "format = 1\n\
    [[servers]]\nname = \"air\"\ncount = 96\ntier = 1\nsite = \"base\"\ngroup_size = 4\n\
    [[servers]]\nname = \"nav\"\ncount = 18\ntier = 2\nsite = \"rim\"\n";

#[test]
fn the_simulated_end_agrees_with_the_closed_form_within_a_twentieth() {
    let plan = plan("[limits]\nfleet = 9\n[limits.tier]\n1 = 3\n2 = 6\n3 = 1\n");
    let servers = Inventory::parse(SERVERS.as_bytes()).expect("a sound inventory").servers;
    let assumed = Assumptions { failures_per_10000: 0, ..Assumptions::of(&plan) };
    let assessed = planner::assess(&plan, &servers, assumed, Calendar::DAY_S, WallTime(plan.issued.0));
    let closed_s = assessed.expect("it can be calculated").finish_s.expect("it ends");
    let scenario = scenario_of(&plan, &servers, &assumed, 2 * DAY_S).expect("it can be simulated");
    let forecast = Forecast::of(&Arc::new(scenario), 2).expect("some run ends");
    assert_eq!(forecast.unfinished, 0);
    // Before the first server goes down its bytes are fetched, in a spread of starts: the closed form begins there.
    let begins_s = forecast.tiers[0].first_down_s;
    let simulated_s = forecast.median_s - begins_s;
    println!(
        "closed form {closed_s} s, simulated {simulated_s} s after {begins_s} s of fetching: {forecast:#?}"
    );
    assert!(
        simulated_s.abs_diff(closed_s) * 20 <= closed_s,
        "closed {closed_s} s, simulated {simulated_s} s"
    );
    assert!(forecast.p95_s >= forecast.median_s);
    assert!(forecast.down.iter().all(|down| down.limit.is_none_or(|limit| down.most <= limit)));
}

#[test]
fn a_plan_by_which_every_upgrade_would_be_rolled_back_is_not_simulated_but_told() {
    let plan = plan("[lease]\ncommit_within_s = 400\n");
    let servers = Inventory::parse(SERVERS.as_bytes()).expect("a sound inventory").servers;
    let assumed = Assumptions { hold_s: 1_200, ..Assumptions::of(&plan) };
    let problems = scenario_of(&plan, &servers, &assumed, 2 * DAY_S).expect_err("no upgrade could commit");
    assert!(problems[0].starts_with("lease.commit_within_s: 400 s"), "{problems:?}");
}

#[test]
fn stages_are_simulated_and_agree_with_the_closed_form_within_a_twentieth() {
    let plan = plan(
        "[limits]\nfleet = 9\n[limits.tier]\n1 = 3\n2 = 6\n3 = 1\n\
         [[stages]]\nname = \"canary\"\nsize = 4\nsoak_s = 3600\nselect = { labels = { ring = [\"first\"] } }\n\
         [[stages]]\nname = \"rest\"\n",
    );
    let labelled = SERVERS.replace("site = \"rim\"\n", "site = \"rim\"\nlabels = { ring = \"first\" }\n");
    let servers = Inventory::parse(labelled.as_bytes()).expect("a sound inventory").servers;
    let assumed = Assumptions { failures_per_10000: 0, ..Assumptions::of(&plan) };
    let assessed = planner::assess(&plan, &servers, assumed, Calendar::DAY_S, WallTime(plan.issued.0));
    let closed_s = assessed.expect("it can be calculated").finish_s.expect("it ends");
    let scenario = scenario_of(&plan, &servers, &assumed, 2 * DAY_S).expect("it can be simulated");
    let forecast = Forecast::of(&Arc::new(scenario), 2).expect("some run ends");
    assert_eq!(forecast.unfinished, 0);
    let begins = forecast.tiers.iter().map(|tier| tier.first_down_s).min().unwrap();
    let simulated_s = forecast.median_s - begins;
    assert!(
        simulated_s.abs_diff(closed_s) * 20 <= closed_s,
        "closed {closed_s} s, simulated {simulated_s} s after {begins} s"
    );
    // Only tier 2 has the label: nobody of tier 1 goes down before the canary has soaked.
    let first_down_s = |at: usize| forecast.tiers[at].first_down_s;
    assert!(first_down_s(0) > first_down_s(1) + 3_600, "{forecast:#?}");
}
