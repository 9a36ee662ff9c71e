//! Whole plans against whole fleets: what the planner says, word for word where an operator reads it.
//!
//! Owns the scenarios of the requirements (B1, D1 to D4) and the contradictions found in them.

use super::*;
use lunar_common::document::Document;
use lunar_common::inventory::Inventory;

const START: WallTime = WallTime(1_795_219_200);

fn plan(limits: &str) -> Plan {
    let text = format!(
        "format = 1\nfleet = \"moon\"\ncampaign = \"web-2\"\ngeneration = 1\nauthor = \"ann\"\n\
         issued = \"2026-11-20T00:00:00Z\"\nexpires = \"2026-11-28T00:00:00Z\"\n{limits}\n[[artifact]]\n\
         name = \"web\"\nversion = \"2\"\nid = \"{}\"\nmanifest_bytes = 1000\nbytes = 100000\n[install]\n\
         kind = \"release\"\nrestart = {{ unit = \"web.service\" }}\n[health]\n[[health.probe]]\nname = \"up\"\n\
         kind = \"tcp\"\naddress = \"127.0.0.1:80\"\n",
        "22".repeat(32)
    );
    Plan::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

/// 10,000 servers as required: 5,000, 2,500 and 2,500, on five sites, tier 1 in groups of 4.
fn moon() -> Vec<InventoryServer> {
    let mut text = "format = 1\n".to_owned();
    for site in 1..=5 {
        for (tier, servers, more) in [(1, 1000, "group_size = 4\n"), (2, 500, ""), (3, 500, "")] {
            text += &format!(
                "[[servers]]\nname = \"s{site}-t{tier}\"\ncount = {servers}\ntier = {tier}\nsite = \"s{site}\"\n{more}"
            );
        }
    }
    Inventory::parse(text.as_bytes()).unwrap().servers
}

fn twenty_minutes(plan: &Plan) -> Assumptions {
    Assumptions { hold_s: 1200, rollback_s: 600, ..Assumptions::of(plan) }
}

fn assessed(limits: &str, servers: &[InventoryServer]) -> Assessment {
    let plan = plan(limits);
    assess(&plan, servers, twenty_minutes(&plan), Calendar::DAY_S, START).unwrap()
}

#[test]
fn the_campaign_as_required_does_not_fit_and_the_refusal_says_what_would() {
    let said = assessed("", &moon()).to_string();
    let wanted = "\
INFEASIBLE: 10000 servers cannot all be done in 7 days.
  from 2026-11-21T00:00:00Z to 2026-11-28T00:00:00Z
  assumed: 20 min down each, 5 s between two in a slot, 10 min for a rollback, 0.5 % fail once and are tried again
  fleet: 10000 servers, limit 250: needs 3372.3 slot-hours, has 42000; takes 13.6 h
  tier 1: 5000 servers, limit 5: needs 1686.2 slot-hours, has 840; 2490 done in time, all after 14.1 days
  tier 2: 2500 servers, limit 100: needs 843.1 slot-hours, has 16800; takes 8.6 h
  tier 3: 2500 servers, limit 150: needs 843.1 slot-hours, has 25200; takes 5.9 h

tier 1 (limits.tier.1) does not fit:
  tier 1: 5000 servers, limit 5: needs 1686.2 slot-hours, has 840; 2490 done in time, all after 14.1 days
  any one of these makes it fit:
  - at most 9 min 53 s down each
  - limits.tier.1 = 11
  - expires = \"2026-12-05T01:13:45Z\" (14.1 days from the start)
  - 2490 of these servers in this campaign: narrow `select`
  risk: at 0.5 % expect 50 to fail; each that stops its tier until a person has looked adds that time (--triage)
  note: limits.tier adds up to 255 (5 + 100 + 150), above limits.fleet = 250: the tiers wait for each other when all are full
";
    assert_eq!(said, wanted, "\n{said}");
}

#[test]
fn each_way_out_that_is_named_is_one() {
    let (refused, servers) = (assessed("", &moon()), moon());
    let short = &refused.short[0];
    assert_eq!((refused.short.len(), short.more), (1, 0));

    let with_limit = format!("[limits]\ntier = {{ 1 = {} }}", short.limit_that_fits.unwrap());
    assert!(assessed(&with_limit, &servers).feasible);

    let plan = plan("");
    let shorter = Assumptions { hold_s: short.hold_that_fits_s.unwrap(), ..twenty_minutes(&plan) };
    assert!(assess(&plan, &servers, shorter, Calendar::DAY_S, START).unwrap().feasible);

    let finish_s = i64::try_from(short.share.finish_s.unwrap()).unwrap();
    let later = Plan { expires: WallTime(START.0 + finish_s), ..plan.clone() };
    assert!(assess(&later, &servers, twenty_minutes(&plan), Calendar::DAY_S, START).unwrap().feasible);

    let done = usize::try_from(short.share.done).unwrap();
    let mut left = servers.clone();
    left.retain(|server| server.tier != Tier::One);
    left.extend(servers.into_iter().filter(|server| server.tier == Tier::One).take(done));
    assert!(assess(&plan, &left, twenty_minutes(&plan), Calendar::DAY_S, START).unwrap().feasible);
}

#[test]
fn site_limits_that_keep_tiers_from_their_own_are_told_and_are_what_binds() {
    let assessed = assessed("select = { tiers = [2, 3] }\n[limits]\nsite = { default = 15 }", &moon());
    assert!(assessed.feasible, "{assessed}");
    assert!(matches!(assessed.binding, LimitScope::Site(_)), "{:?}", assessed.binding);
    let tier_two = &assessed.rows[1];
    assert_eq!((tier_two.limit, tier_two.slots, tier_two.held_by), (100, 75, Some(HeldBy::Sites)));
    assert!(
        assessed.contradictions.iter().any(|told| told
            == "limits.tier.2 = 100 can never be reached: the sites' limits let at most 75 of its 2500 servers down at once"),
        "{:?}",
        assessed.contradictions
    );
}

#[test]
fn a_group_that_is_too_large_for_the_window_is_short_whatever_its_tier_allows() {
    let text = "format = 1\n[[servers]]\nname = \"air\"\ncount = 1200\ntier = 2\nsite = \"base\"\ngroup_size = 600\n";
    let servers = Inventory::parse(text.as_bytes()).unwrap().servers;
    let assessed = assessed("", &servers);
    let [short] = assessed.short.as_slice() else { panic!("{assessed}") };
    assert!(matches!(short.share.scope, LimitScope::Group(_)));
    assert_eq!((short.more, short.limit_that_fits), (1, None), "two groups, and none is widened");
    assert!(matches!(assessed.binding, LimitScope::Group(_)));
    assert!(assessed.to_string().contains("(only 2 can be: the redundancy groups)"), "{assessed}");
}

#[test]
fn a_limit_that_another_one_holds_back_is_not_proposed_as_enough() {
    let assessed = assessed("[limits]\nfleet = 6", &moon());
    let tier_one =
        assessed.short.iter().find(|short| short.share.scope == LimitScope::Tier(Tier::One)).unwrap();
    assert_eq!((tier_one.limit_that_fits, tier_one.limit_held_by), (Some(11), Some(HeldBy::Fleet)));
    assert!(assessed.short.iter().any(|short| short.share.scope == LimitScope::Fleet), "{assessed}");
}

#[test]
fn names_that_nobody_has_are_told_with_the_one_that_was_meant() {
    let servers = moon();
    let said =
        assessed("select = { sites = [\"s1\", \"s9\"] }\n[limits]\nsite = { only = { rim = 3 } }", &servers);
    assert!(said.contradictions[0].contains("select.sites: no selected server is of s9; did you mean s"));
    assert!(said.contradictions.iter().any(|told| told == "limits.site.only: no selected server is of rim"));

    let plan = plan("select = { services = [\"air\"] }");
    let nobody = assess(&plan, &servers, Assumptions::of(&plan), Calendar::DAY_S, START).unwrap_err();
    assert!(nobody.to_string().contains("none of 10000 servers matches"), "{nobody}");
    assert!(nobody.to_string().contains("\n  - select.services: no selected server is of air"), "{nobody}");
}

#[test]
fn a_plan_that_is_over_or_loses_every_lease_is_refused_before_any_arithmetic() {
    let plan = plan("[lease]\ndown_s_max = 1300\n");
    let over = assess(&plan, &moon(), Assumptions::of(&plan), Calendar::DAY_S, plan.expires).unwrap_err();
    assert!(matches!(over, Unplannable::Expired { .. }));
    let long = Assumptions { hold_s: 1301, ..Assumptions::of(&plan) };
    let lost = assess(&plan, &moon(), long, Calendar::DAY_S, START).unwrap_err();
    assert_eq!(lost, Unplannable::LeaseTooShort { down_s_max: 1300, hold_s: 1301 });
}

#[test]
fn windows_and_triage_are_counted() {
    let (plan, servers) = (plan("[limits]\ntier = { 1 = 20 }"), moon());
    let at = |assumed, hours: u64| assess(&plan, &servers, assumed, hours * 3600, START).unwrap();
    let twelve = at(twenty_minutes(&plan), 12);
    assert_eq!(twelve.short[0].limit_that_fits, Some(21), "{twelve}");
    assert!(at(twenty_minutes(&plan), 24).feasible);
    let looked_at = Assumptions { triage_s: 4 * 3600, ..twenty_minutes(&plan) };
    assert!(!at(looked_at, 24).feasible, "25 failures of 4 hours leave 68 hours for 84 of work");
    assert!(at(looked_at, 24).to_string().contains("those of tier 1 stop it for 4 h each"));
}

const STAGES: &str = "[[stages]]\nname = \"canary\"\nsize = 29\nwave_max = 8\nsoak_s = 3600\nselect = { tiers = [3] }\n\
    [[stages]]\nname = \"tier-3\"\nsoak_s = 21600\nselect = { tiers = [3] }\n\
    [[stages]]\nname = \"tier-2\"\nselect = { tiers = [2] }\nsoak_s = 43200\n\
    [[stages]]\nname = \"tier-1\"\nselect = { tiers = [1] }\nafter = [\"tier-3\"]\n";

#[test]
fn stages_come_one_after_the_other_with_their_soaks_and_the_plan_says_when_each_begins() {
    let plan = plan(STAGES);
    let quick = Assumptions { hold_s: 300, ..Assumptions::of(&plan) };
    let assessment = assess(&plan, &moon(), quick, Calendar::DAY_S, START).unwrap();
    let servers: Vec<u64> = assessment.stages.iter().map(|stage| stage.servers).collect();
    assert_eq!(servers, [29, 2471, 2500, 5000]);
    let rows = &assessment.stages;
    // Waves of 1, 2, 4, 8, 8 and the 6 left: six holds and their hand-overs, and an hour of soak.
    assert_eq!((rows[0].done_s, rows[0].passes_s), (Some(6 * 305), Some(6 * 305 + 3600)));
    assert_eq!(rows[1].begins_s, rows[0].passes_s);
    assert_eq!(rows[2].begins_s, rows[1].passes_s);
    assert_eq!(rows[3].begins_s, rows[1].passes_s, "tier 1 goes beside tier 2");
    assert_eq!(assessment.finish_s, rows[3].done_s);
    assert!(assessment.feasible, "{assessment}");
    assert!(
        assessment.to_string().contains("  stage canary: 29 servers; begins after 0 s, done after 30.5 min")
    );
}

#[test]
fn stages_that_take_too_long_together_are_refused_with_what_would_help() {
    let slow = STAGES.replace("soak_s = 21600", "soak_s = 604800");
    let plan = plan(&slow);
    let quick = Assumptions { hold_s: 300, ..Assumptions::of(&plan) };
    let assessment = assess(&plan, &moon(), quick, Calendar::DAY_S, START).unwrap();
    assert!(!assessment.feasible);
    let said = assessment.to_string();
    assert!(
        said.contains("the stages, one after the other, take") && said.contains("shorten a `soak_s`"),
        "{said}"
    );
}

#[test]
fn a_stage_without_a_server_and_a_server_without_a_stage_are_refused() {
    let plan = plan(
        "[[stages]]\nname = \"staging\"\nselect = { labels = { pool = [\"staging\"] } }\n\
         [[stages]]\nname = \"tier-3\"\nselect = { tiers = [3] }\n",
    );
    let assessment = assess(&plan, &moon(), Assumptions::of(&plan), Calendar::DAY_S, START).unwrap();
    assert!(!assessment.feasible);
    let said = assessment.to_string();
    for words in [
        "never done: stages: 7500 of the servers selected are in none of them",
        "never done: stages[0]: staging has no server",
        "tier-3 would never begin",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn servers_that_would_wait_for_each_other_are_named() {
    let ordered = |more: &str| {
        let plan = plan(&format!(
            "{STAGES}[[order]]\nselect = {{ services = [\"s1-t3\"] }}\nafter = {{ services = [\"s2-t3\"] }}\n{more}"
        ));
        let quick = Assumptions { hold_s: 300, ..Assumptions::of(&plan) };
        assess(&plan, &moon(), quick, Calendar::DAY_S, START).unwrap()
    };
    // Both are in the canary and in tier 3: a canary of one would wait for servers of the other that come later.
    let said = ordered("").to_string();
    assert!(said.contains("never done: order: ") && said.contains("stage canary"), "{said}");

    let no_stages = |text: &str| {
        let plan = plan(text);
        let quick = Assumptions { hold_s: 60, ..Assumptions::of(&plan) };
        assess(&plan, &moon(), quick, Calendar::DAY_S, START).unwrap()
    };
    let leaders = "[[order]]\nwithin = \"site\"\nselect = { tiers = [1] }\nafter = { tiers = [2] }\n";
    assert!(no_stages(leaders).stuck.is_empty());
    let crossed = format!(
        "{leaders}[[order]]\nselect = {{ tiers = [2], sites = [\"s1\"] }}\nafter = {{ tiers = [1], sites = [\"s1\"] }}\n"
    );
    let crossed = no_stages(&crossed);
    assert!(!crossed.feasible);
    assert!(
        crossed.stuck[0].contains("s1-t1-") && crossed.stuck[0].contains("s1-t2-"),
        "{:?}",
        crossed.stuck
    );
}

/// Twelve hours from midnight on, each day, by a clock that is an hour ahead of UTC.
const HALF_DAYS: &str = "[[windows.weekly]]\nname = \"half\"\nfrom = \"01:00\"\nuntil = \"13:00\"\n";

fn held_to_half_days(mode: &str, limits: &str) -> String {
    let zone = "[windows]\nzone = \"Europe/Berlin\"\n";
    format!("{limits}\n{zone}{HALF_DAYS}[windows.tier]\n1 = {{ mode = \"{mode}\", windows = [\"half\"] }}\n")
}

#[test]
fn strict_windows_count_like_the_hours_of_a_day_and_only_for_their_tier() {
    let said = assessed(&held_to_half_days("strict", "[limits]\ntier = { 1 = 20 }"), &moon());
    let [short] = said.short.as_slice() else { panic!("{said}") };
    assert_eq!((short.share.scope.clone(), short.limit_that_fits), (LimitScope::Tier(Tier::One), Some(21)));
    let shown = said.to_string();
    for line in [
        "windows of tier 1 (strict: half): open 84 h a week, for starts 82.8 h; 84 h until the plan expires; first \
         start 2026-11-21T00:00:00Z",
        // 20 slots x 7 x (12 h - 2 min to begin in).
        "tier 1: 5000 servers, limit 20: needs 1686.2 slot-hours, has 1675.3; 4900 done in time, all after 7.1 days",
        "tier 2: 2500 servers, limit 100: needs 843.1 slot-hours, has 16800; takes 8.6 h",
        "note: windows are kept open for 150 s down",
    ] {
        assert!(shown.contains(line), "{line:?} is not in\n{shown}");
    }
    let enough = assessed(&held_to_half_days("strict", "[limits]\ntier = { 1 = 21 }"), &moon());
    assert!(enough.feasible, "{enough}");
    let finish_s = i64::try_from(short.share.finish_s.unwrap()).unwrap();
    let plan = plan(&held_to_half_days("strict", "[limits]\ntier = { 1 = 20 }"));
    let later = Plan { expires: WallTime(START.0 + finish_s), ..plan.clone() };
    let assessed = assess(&later, &moon(), twenty_minutes(&plan), Calendar::DAY_S, START).unwrap();
    assert!(assessed.feasible, "the end that is named fits: {assessed}");
}

#[test]
fn preferred_windows_refuse_nothing_and_are_told_when_they_do_not_suffice() {
    let said = assessed(&held_to_half_days("preferred", "[limits]\ntier = { 1 = 20 }"), &moon());
    assert!(said.feasible && !said.windows[0].fits_inside, "{said}");
    assert!(said.to_string().contains("; not all fit inside"), "{said}");
    assert!(
        said.contradictions.iter().any(|told| told
            == "tier 1 does not fit into its windows: it will start outside them too, as soon as it is behind"),
        "{:?}",
        said.contradictions
    );
    let roomy = assessed(&held_to_half_days("preferred", "[limits]\ntier = { 1 = 21 }"), &moon());
    assert!(roomy.windows[0].fits_inside && roomy.to_string().contains("; all fit inside"), "{roomy}");
}

#[test]
fn windows_that_hold_the_wrong_tier_are_told() {
    let text = held_to_half_days("strict", "select = { tiers = [1, 2] }").replace("\n1 = {", "\n3 = {");
    let said = assessed(&text, &moon());
    let told = said.contradictions.join("\n");
    assert!(told.contains("windows.tier.3: no selected server is of tier 3"), "{told}");
    assert!(
        told.contains("windows.tier.1 is not given: servers that people depend on go down at any time"),
        "{told}"
    );
}

#[test]
fn windows_too_short_for_what_is_assumed_never_bring_a_tier_to_its_end() {
    let short = "[windows]\nzone = \"UTC\"\n[[windows.weekly]]\nname = \"w\"\nfrom = \"02:00\"\n\
                 until = \"02:20\"\n[windows.tier]\n1 = { mode = \"strict\", windows = [\"w\"] }\n";
    let said = assessed(short, &moon());
    let tier_one = said.rows.iter().find(|row| row.scope == LimitScope::Tier(Tier::One)).unwrap();
    assert_eq!((tier_one.finish_s, tier_one.done), (None, 0));
    assert!(said.to_string().contains("never done: its windows are too short or too few"), "{said}");
}
