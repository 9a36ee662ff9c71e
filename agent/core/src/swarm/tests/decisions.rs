//! Single decisions, with the exact list of effects.

use std::time::Duration;

use lunar_common::have_set::HaveSet;
use lunar_common::ids::{ArtifactId, PeerKey};
use lunar_common::order::draw;
use lunar_common::time::{Moment, Now, WallTime};

use super::super::*;

const ARTIFACT: ArtifactId = ArtifactId([7; 32]);
const ME: PeerKey = PeerKey([1; 32]);
const NEAR: PeerKey = PeerKey([2; 32]);
const ALSO_NEAR: PeerKey = PeerKey([3; 32]);
const FAR: PeerKey = PeerKey([4; 32]);
const ORIGIN: PeerKey = PeerKey([5; 32]);

#[test]
fn a_wanted_artifact_makes_an_agent_connect_to_the_members_of_its_site() {
    let mut swarm = swarm();

    let effects = [
        give(&mut swarm, 0, Input::Want { artifact: ARTIFACT, manifest_bytes: 1024 }),
        give(&mut swarm, 0, near(NEAR)),
        give(&mut swarm, 0, Input::Member { artifact: ARTIFACT, peer: NEAR }),
        give(&mut swarm, 5, Input::Connected { peer: NEAR }),
    ];

    assert_eq!(effects[0], []);
    assert_eq!(effects[1], []);
    assert_eq!(effects[2], [Effect::Connect { peer: NEAR }]);
    assert_eq!(effects[3], [Effect::Subscribe { artifact: ARTIFACT, peer: NEAR, takings: true }]);
}

#[test]
fn the_manifest_comes_from_the_site_before_any_chunk() {
    let mut swarm = swarm();
    give(&mut swarm, 0, Input::Want { artifact: ARTIFACT, manifest_bytes: 1024 });
    connect(&mut swarm, NEAR, near(NEAR));

    let effects = give(&mut swarm, 10, said(NEAR, Word::HaveSet(HaveSet::full(3))));

    assert_eq!(effects, [fetch(0, Item::Manifest, NEAR)]);
    let received = give(&mut swarm, 20, good(0));
    assert_eq!(received, [], "the shell opens the pack first");
}

#[test]
fn a_member_that_answers_nothing_keeps_nobody_from_the_origins_manifest() {
    let mut swarm = swarm();
    give(&mut swarm, 0, Input::Want { artifact: ARTIFACT, manifest_bytes: 1024 });
    give(&mut swarm, 0, Input::Peer { peer: ORIGIN, site: "earth".parse().unwrap(), origin: true });
    connect(&mut swarm, NEAR, near(NEAR));
    let mut seen = give(&mut swarm, 1, said(NEAR, Word::HaveSet(HaveSet::full(3))));

    // A request that comes to nothing opens its breaker; on trial it comes after the origin.
    seen.extend((1..=20).flat_map(|second| wake(&mut swarm, second * 1_000)));
    seen.extend(give(&mut swarm, 20_000, Input::Connected { peer: ORIGIN }));
    seen.extend((21..=30).flat_map(|second| wake(&mut swarm, second * 1_000)));

    let of_near = seen.iter().filter(|effect| matches!(effect, Effect::Fetch { peer: NEAR, .. })).count();
    assert!(of_near >= 1, "{seen:?}");
    assert!(seen.contains(&Effect::Connect { peer: ORIGIN }), "{seen:?}");
    let asked = |effect: &Effect| matches!(effect, Effect::Fetch { peer: ORIGIN, item: Item::Manifest, .. });
    assert!(seen.iter().any(asked), "{seen:?}");
}

#[test]
fn the_rarest_chunk_is_asked_for_first_and_the_idle_source_is_asked() {
    let mut swarm = downloading(HaveSet::empty(3));
    connect(&mut swarm, NEAR, near(NEAR));
    connect(&mut swarm, ALSO_NEAR, near(ALSO_NEAR));
    give(&mut swarm, 1, said(NEAR, Word::HaveSet(HaveSet::empty(3))));
    give(&mut swarm, 1, said(ALSO_NEAR, Word::HaveSet(HaveSet::empty(3))));

    // Nothing can be had yet; then chunk 1 appears at one of them, and is asked for there.
    let first = give(&mut swarm, 2, said(ALSO_NEAR, Word::Have(1)));
    // With both having chunk 2, the one with nothing in flight is asked.
    let second = give(&mut swarm, 3, said(ALSO_NEAR, Word::Have(2)));
    give(&mut swarm, 3, said(NEAR, Word::Have(2)));

    assert_eq!(first, [fetch(0, Item::Chunk(1), ALSO_NEAR)]);
    assert_eq!(second, [fetch(1, Item::Chunk(2), ALSO_NEAR)], "the only source that was known");
    let third = give(&mut swarm, 4, said(NEAR, Word::Have(0)));
    assert_eq!(third, [fetch(2, Item::Chunk(0), NEAR)]);
}

#[test]
fn a_chunk_that_is_held_is_never_asked_for_after_a_restart() {
    let mut have = HaveSet::empty(3);
    have.insert(0);
    have.insert(2);
    let mut swarm = downloading(have);
    connect(&mut swarm, NEAR, near(NEAR));

    let effects = give(&mut swarm, 1, said(NEAR, Word::HaveSet(HaveSet::full(3))));

    assert_eq!(effects, [fetch(0, Item::Chunk(1), NEAR)]);
    let end = give(&mut swarm, 2, good(0));
    assert_eq!(
        end,
        [
            Effect::AnnounceHaves { artifact: ARTIFACT, chunks: vec![1] },
            Effect::Unsubscribe { artifact: ARTIFACT },
            Effect::Complete { artifact: ARTIFACT },
        ]
    );
}

#[test]
fn no_more_than_eight_requests_are_in_flight_to_peers() {
    let mut swarm = downloading(HaveSet::empty(100));
    connect(&mut swarm, NEAR, near(NEAR));

    let effects = give(&mut swarm, 1, said(NEAR, Word::HaveSet(HaveSet::full(100))));

    assert_eq!(effects.iter().filter(|effect| matches!(effect, Effect::Fetch { .. })).count(), 8);
    let next = give(&mut swarm, 2, good(0));
    assert_eq!(next.iter().filter(|effect| matches!(effect, Effect::Fetch { .. })).count(), 1);
}

#[test]
fn a_corrupt_frame_bans_its_sender_and_another_source_is_asked() {
    let mut swarm = downloading(HaveSet::empty(1));
    connect(&mut swarm, NEAR, near(NEAR));
    give(&mut swarm, 1, said(NEAR, Word::HaveSet(HaveSet::full(1))));
    connect(&mut swarm, ALSO_NEAR, near(ALSO_NEAR));
    give(&mut swarm, 1, said(ALSO_NEAR, Word::HaveSet(HaveSet::full(1))));

    let effects = give(&mut swarm, 2, Input::Answered { request: RequestId(0), outcome: Outcome::Corrupt });

    let Effect::Banned { peer, offence, until } = effects[0] else { panic!("{effects:?}") };
    assert_eq!((peer, offence), (NEAR, Offence::Corrupt));
    assert!(until >= Moment(2 + 60_000) && until <= Moment(2 + 66_000), "{until:?}");
    assert_eq!(effects[1..], [fetch(1, Item::Chunk(0), ALSO_NEAR)]);
}

#[test]
fn a_peer_that_never_has_what_it_announced_is_banned_as_a_liar() {
    let mut swarm = downloading(HaveSet::empty(8));
    connect(&mut swarm, NEAR, near(NEAR));
    give(&mut swarm, 1, said(NEAR, Word::HaveSet(HaveSet::full(8))));
    let not_have = |request| Input::Answered { request: RequestId(request), outcome: Outcome::NotHave };

    assert_eq!(give(&mut swarm, 2, not_have(0)), []);
    assert_eq!(give(&mut swarm, 2, not_have(1)), []);
    let third = give(&mut swarm, 2, not_have(2));

    assert!(matches!(third[0], Effect::Banned { peer: NEAR, offence: Offence::Lied, .. }), "{third:?}");
    let cancelled = third.iter().filter(|effect| matches!(effect, Effect::Cancel { .. })).count();
    assert_eq!(cancelled, 5, "what else was in flight to it is given up");
}

#[test]
fn a_source_that_gave_nothing_and_drips_is_left_alone_and_then_given_one_request() {
    let mut swarm = downloading(HaveSet::empty(2));
    connect(&mut swarm, NEAR, near(NEAR));
    let mut told = HaveSet::empty(2);
    told.insert(0);
    assert_eq!(give(&mut swarm, 0, said(NEAR, Word::HaveSet(told))), [fetch(0, Item::Chunk(0), NEAR)]);
    // Its distance, and its bytes at the rate floor.
    let patience = 5_000 + CHUNK_BYTES * 1000 / (32 * 1024);

    assert_eq!(wake(&mut swarm, patience - 1), []);
    // The breaker opens, for two seconds and up to a tenth.
    assert_eq!(wake(&mut swarm, patience), [Effect::Cancel { request: RequestId(0) }]);
    assert_eq!(wake(&mut swarm, patience + 1_999), []);
    give(&mut swarm, patience + 1_999, said(NEAR, Word::Have(1)));
    let one = wake(&mut swarm, patience + 2_200);

    assert_eq!(one.len(), 1, "half-open lets a single request through: {one:?}");
    assert!(matches!(one[0], Effect::Fetch { peer: NEAR, .. }));
}

#[test]
fn in_the_end_game_a_slow_chunk_is_asked_for_at_one_other_peer_and_the_loser_is_cancelled() {
    let mut swarm = downloading(HaveSet::empty(1));
    connect(&mut swarm, NEAR, near(NEAR));
    give(&mut swarm, 1, said(NEAR, Word::HaveSet(HaveSet::full(1))));
    connect(&mut swarm, ALSO_NEAR, near(ALSO_NEAR));
    give(&mut swarm, 1, said(ALSO_NEAR, Word::HaveSet(HaveSet::full(1))));

    let twice = wake(&mut swarm, 1_001);
    let thrice = wake(&mut swarm, 3_000);
    let end = give(&mut swarm, 3_001, good(1));

    assert_eq!(twice, [fetch(1, Item::Chunk(0), ALSO_NEAR)]);
    assert_eq!(thrice, []);
    assert_eq!(end[0], Effect::Cancel { request: RequestId(0) });
    assert!(end.contains(&Effect::Complete { artifact: ARTIFACT }));
}

#[test]
fn the_earth_link_is_used_only_after_have_sets_had_time_and_never_twice_for_a_chunk() {
    let mut swarm = downloading(HaveSet::empty(1));
    let origin = Input::Peer { peer: ORIGIN, site: "earth".parse().unwrap(), origin: true };

    assert_eq!(give(&mut swarm, 10, origin), []);
    assert_eq!(wake(&mut swarm, 1_000), [Effect::Connect { peer: ORIGIN }]);
    let connected = give(&mut swarm, 6_000, Input::Connected { peer: ORIGIN });
    let later = wake(&mut swarm, 20_000);

    assert_eq!(
        connected,
        [fetch(0, Item::Chunk(0), ORIGIN), Effect::AnnounceTaking { artifact: ARTIFACT, chunk: 0 }]
    );
    assert_eq!(later, [], "the end-game does not reach the Earth link");
}

#[test]
fn what_another_gateway_is_taking_is_left_to_it_until_it_gives_up() {
    let mut swarm = downloading(HaveSet::empty(2));
    give(&mut swarm, 0, Input::Peer { peer: ORIGIN, site: "earth".parse().unwrap(), origin: true });
    connect(&mut swarm, FAR, Input::Peer { peer: FAR, site: "ridge".parse().unwrap(), origin: false });
    give(&mut swarm, 1, said(FAR, Word::HaveSet(HaveSet::empty(2))));
    give(&mut swarm, 1, said(FAR, Word::Taking(0)));
    give(&mut swarm, 1, said(FAR, Word::Taking(1)));
    let state = swarm.artifacts.get(&ARTIFACT).unwrap();
    let mine: Vec<u32> = (0..2).filter(|chunk| state.duty.is_earth_fetcher(*chunk)).collect();

    wake(&mut swarm, 1_000);
    assert_eq!(swarm.in_flight.of_class(Class::Earth), 0);
    give(&mut swarm, 1_001, said(FAR, Word::Left(0)));
    give(&mut swarm, 1_001, said(FAR, Word::Left(1)));
    let effects = give(&mut swarm, 1_002, Input::Connected { peer: ORIGIN });

    let asked: Vec<u32> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Fetch { item: Item::Chunk(chunk), peer: ORIGIN, .. } => Some(*chunk),
            _ => None,
        })
        .collect();
    assert_eq!(asked, mine);
}

#[test]
fn a_new_gateway_is_heard_before_anything_more_is_asked_of_earth() {
    let mut swarm = fetching_from_earth();
    give(&mut swarm, 2_001, far(FAR));
    let met = give(&mut swarm, 2_001, Input::Member { artifact: ARTIFACT, peer: FAR });
    let unheard = (0..40).flat_map(|request| give(&mut swarm, 2_002, good(request))).collect::<Vec<_>>();
    give(&mut swarm, 2_003, Input::Connected { peer: FAR });
    let taking: Vec<u32> = (0..190).collect();

    let heard = give(&mut swarm, 2_004, said(FAR, standing(200, taking, vec![])));
    let later = wake(&mut swarm, 2_300);

    assert_eq!(met, [Effect::Connect { peer: FAR }]);
    assert_eq!((asked_of_earth(&unheard), asked_of_earth(&heard)), (vec![], vec![]));
    let state = swarm.artifacts.get(&ARTIFACT).unwrap();
    let asked = asked_of_earth(&later);
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|chunk| *chunk >= 190 && state.duty.is_earth_fetcher(*chunk)), "{asked:?}");
}

#[test]
fn what_a_gateway_has_heard_of_others_is_believed_for_as_long_as_it_may_be_true() {
    let mut swarm = fetching_from_earth();
    give(&mut swarm, 2_001, far(FAR));
    give(&mut swarm, 2_001, Input::Member { artifact: ARTIFACT, peer: FAR });
    for request in 0..40 {
        give(&mut swarm, 2_002, good(request));
    }
    give(&mut swarm, 2_003, Input::Connected { peer: FAR });
    let heard: Vec<(u32, Duration)> = (0..200).map(|chunk| (chunk, Duration::from_secs(5))).collect();

    let told = give(&mut swarm, 2_004, said(FAR, standing(200, vec![], heard.clone())));
    let (relayed, too_late) = (swarm.fetching(ARTIFACT, at(2_004)), swarm.fetching(ARTIFACT, at(7_004)));
    let meanwhile = (1..=19).flat_map(|quarter| wake(&mut swarm, 2_004 + quarter * 250)).collect::<Vec<_>>();
    let later = (20..=21).flat_map(|quarter| wake(&mut swarm, 2_004 + quarter * 250)).collect::<Vec<_>>();

    assert_eq!(asked_of_earth(&told), []);
    assert_eq!((relayed.heard, too_late.heard), (heard, vec![]));
    assert_eq!(asked_of_earth(&meanwhile), []);
    assert!(!asked_of_earth(&later).is_empty());
}

#[test]
fn a_new_gateway_that_says_nothing_is_not_waited_for_longer_than_others() {
    let mut swarm = fetching_from_earth();
    give(&mut swarm, 2_001, far(FAR));
    give(&mut swarm, 2_001, Input::Member { artifact: ARTIFACT, peer: FAR });
    give(&mut swarm, 2_002, Input::Connected { peer: FAR });
    let waiting = (0..40).flat_map(|request| give(&mut swarm, 2_003, good(request))).collect::<Vec<_>>();

    let before = (1..=30).flat_map(|quarter| wake(&mut swarm, 2_003 + quarter * 250)).collect::<Vec<_>>();
    let after = (31..=34).flat_map(|quarter| wake(&mut swarm, 2_003 + quarter * 250)).collect::<Vec<_>>();

    assert_eq!((asked_of_earth(&waiting), asked_of_earth(&before)), (vec![], vec![]));
    assert_eq!(asked_of_earth(&after).len(), 40, "{after:?}");
    let state = swarm.artifacts.get(&ARTIFACT).unwrap();
    assert!(!state.duty.is_gateway(&FAR), "whoever says nothing has no duties");
}

#[test]
fn a_gateway_whose_chunks_nobody_takes_asks_earth_for_no_more_until_somebody_does() {
    let mut swarm = fetching_from_earth();
    connect(&mut swarm, NEAR, near(NEAR));
    give(&mut swarm, 2_001, said(NEAR, standing(200, vec![], vec![])));
    let fetched: Vec<u32> = {
        let requests = swarm.in_flight.of_artifact(ARTIFACT);
        let flights = requests.iter().filter_map(|request| swarm.in_flight.get(*request));
        let chunks = flights.map(|flight| match flight.item {
            Item::Chunk(chunk) => chunk,
            Item::Manifest => panic!("the manifest is here"),
        });
        chunks.collect()
    };

    let requests = 0..u64::try_from(fetched.len()).unwrap();
    let alone = requests.flat_map(|request| give(&mut swarm, 4_600, good(request))).collect::<Vec<_>>();
    let taken = give(&mut swarm, 4_900, said(NEAR, Word::Haves(fetched[5..].to_vec())));
    let much_later = (1..=80).flat_map(|quarter| wake(&mut swarm, 4_900 + quarter * 250)).collect::<Vec<_>>();

    assert_eq!(asked_of_earth(&alone), []);
    let again = asked_of_earth(&taken).len();
    assert!(again > 0 && again <= fetched.len() - 5, "{again} of {}", fetched.len());
    assert!(!asked_of_earth(&much_later).is_empty(), "nobody takes anything: it is not given up for ever");
}

#[test]
fn whoever_takes_everything_and_brings_nothing_keeps_nobody_from_earth_for_long() {
    let mut swarm = fetching_from_earth();
    connect(&mut swarm, FAR, far(FAR));
    connect(&mut swarm, NEAR, near(NEAR));
    give(&mut swarm, 2_001, said(NEAR, standing(200, vec![], vec![])));
    give(&mut swarm, 2_001, said(FAR, standing(200, (0..200).collect(), vec![])));
    let claims = |swarm: &mut Swarm, at_ms| {
        let heard = (0..200).map(|chunk| (chunk, Duration::from_secs(3_600))).collect();
        give(swarm, at_ms, said(FAR, standing(200, (0..200).collect(), heard)))
    };
    // The other gateway brings a chunk every few seconds, the first half of them in all.
    let asked = (1..=20).map(|tick| {
        let at_ms = 2_000 + tick * 4_000;
        let (chunk, request) = (u32::try_from(tick).unwrap(), tick - 1);
        let mut effects = give(&mut swarm, at_ms, said(NEAR, Word::Have(chunk)));
        effects.extend(give(&mut swarm, at_ms, good(request)));
        effects.extend(claims(&mut swarm, at_ms));
        effects.extend(wake(&mut swarm, at_ms));
        (tick * 4, asked_of_earth(&effects).len())
    });
    let asked: Vec<(u64, usize)> = asked.filter(|(_, count)| *count > 0).collect();

    let patience_s = Config::default().patience_earth.as_secs();
    let first = asked.first().map(|(after_s, _)| *after_s);
    assert!(
        first.is_some_and(|after_s| after_s >= patience_s && after_s <= 2 * patience_s + 20),
        "{asked:?}"
    );
    let state = swarm.artifacts.get(&ARTIFACT).unwrap();
    assert!(!state.duty.is_gateway(&FAR), "whoever brings nothing of what it takes has no duty");
}

#[test]
fn a_chunk_that_many_have_is_told_late_and_one_that_few_have_at_once() {
    let told = |copies: u8| {
        let mut swarm = downloading(HaveSet::empty(2));
        for number in 0..copies {
            let peer = PeerKey([100 + number; 32]);
            connect(&mut swarm, peer, near(peer));
            let mut have = HaveSet::empty(2);
            have.insert(0);
            give(&mut swarm, 1, said(peer, Word::HaveSet(have)));
        }
        give(&mut swarm, 2, good(0));
        let tells = |effect: &Effect| matches!(effect, Effect::AnnounceHaves { .. });
        let woken = (1..=50).map(|tick| tick * 250);
        woken.into_iter().find(|at_ms| wake(&mut swarm, *at_ms).iter().any(tells))
    };
    assert!(told(1).is_some_and(|at_ms| at_ms <= 500), "{:?}", told(1));
    assert!(told(5).is_some_and(|at_ms| (10_000..=10_250).contains(&at_ms)), "{:?}", told(5));
}

#[test]
fn a_member_that_connected_by_itself_is_listened_to_once_it_is_a_gateway() {
    let mut swarm = downloading(HaveSet::empty(3));
    let key = |number: usize| PeerKey([u8::try_from(number).unwrap(); 32]);
    let neighbours = Config::default().neighbours_max;
    for number in 10..10 + neighbours {
        connect(&mut swarm, key(number), near(key(number)));
    }
    for number in 100..200 {
        give(&mut swarm, 2, near(key(number)));
        let connected = give(&mut swarm, 2, Input::Connected { peer: key(number) });
        assert!(!listens_to(&connected, key(number)));
    }

    for number in 100..200 {
        let effects = give(&mut swarm, 3, Input::Member { artifact: ARTIFACT, peer: key(number) });
        let listens = listens_to(&effects, key(number));
        let state = swarm.artifacts.get(&ARTIFACT).unwrap();
        assert!(listens || !state.duty.is_gateway(&key(number)), "{number}");
    }
    let state = swarm.artifacts.get(&ARTIFACT).unwrap();
    assert!(state.duty.gateways().filter(|key| *key != ME).all(|key| state.listened.contains_key(&key)));
}

#[test]
fn whoever_is_next_to_no_gateway_hears_of_no_takings_until_it_is() {
    let mut swarm = swarm();
    give(&mut swarm, 0, Input::Want { artifact: ARTIFACT, manifest_bytes: 1024 });
    let key = |number: u8| PeerKey([number; 32]);
    let mine = draw("swarm gateway", &[&ARTIFACT.0, &ME.0]);
    let before = |key: &PeerKey| draw("swarm gateway", &[&ARTIFACT.0, &key.0]) < mine;
    let first: Vec<PeerKey> = (10..250).map(key).filter(before).take(6).collect();
    assert_eq!(first.len(), 6, "six of the site come before this one");
    for peer in &first {
        give(&mut swarm, 0, near(*peer));
        give(&mut swarm, 0, Input::Member { artifact: ARTIFACT, peer: *peer });
    }
    for peer in &first {
        let effects = give(&mut swarm, 1, Input::Connected { peer: *peer });
        assert!(effects.contains(&Effect::Subscribe { artifact: ARTIFACT, peer: *peer, takings: false }));
        give(&mut swarm, 2, said(*peer, Word::Nothing));
    }

    // One of the six is out: this one is next, and hears the gateways from the beginning again, each once.
    let effects = give(&mut swarm, 3, Input::PeerGone { peer: first[0] });
    let again = give(&mut swarm, 4, near(key(5)));

    let anew = |effect: &&Effect| matches!(effect, Effect::Subscribe { takings: true, .. });
    assert_eq!(effects.iter().filter(anew).count(), 3, "{effects:?}");
    assert_eq!(again.iter().filter(anew).count(), 0, "{again:?}");
}

#[test]
fn whoever_is_no_gateway_takes_those_of_other_sites_for_silent_never() {
    let mut swarm = downloading(HaveSet::empty(3));
    give(&mut swarm, 1, far(FAR));
    give(&mut swarm, 1, Input::Member { artifact: ARTIFACT, peer: FAR });
    let others = (10..40).map(|number| PeerKey([number; 32]));
    for other in others.clone() {
        connect(&mut swarm, other, near(other));
    }
    let state = swarm.artifacts.get(&ARTIFACT).unwrap();
    assert!(!state.duty.is_gateway(&ME), "thirty others make it unlikely");

    for second in 1..100 {
        for other in others.clone() {
            give(&mut swarm, second * 1_000, said(other, Word::HaveSet(HaveSet::empty(3))));
        }
        wake(&mut swarm, second * 1_000);
    }

    assert!(swarm.artifacts.get(&ARTIFACT).unwrap().duty.gateways().any(|gateway| gateway == FAR));
}

#[test]
fn what_is_forgotten_while_it_is_fetched_from_earth_is_left_to_others() {
    let mut swarm = fetching_from_earth();
    let under_way = swarm.in_flight.of_class(Class::Earth) as usize;

    let effects = give(&mut swarm, 2_001, Input::Forget { artifact: ARTIFACT });

    let left = effects.iter().filter(|effect| matches!(effect, Effect::AnnounceLeft { .. })).count();
    assert!(under_way > 0);
    assert_eq!(left, under_way);
}

#[test]
fn a_busy_peer_is_left_alone_and_then_asked_again() {
    let mut swarm = downloading(HaveSet::empty(1));
    connect(&mut swarm, NEAR, near(NEAR));
    give(&mut swarm, 1, said(NEAR, Word::HaveSet(HaveSet::full(1))));
    let busy = Outcome::Busy { retry_after: Duration::from_secs(9) };

    let at_once = give(&mut swarm, 2, Input::Answered { request: RequestId(0), outcome: busy });
    let later = wake(&mut swarm, 9_002);

    assert_eq!(at_once, []);
    assert_eq!(later, [fetch(1, Item::Chunk(0), NEAR)]);
}

#[test]
fn a_revoked_peer_is_cut_off_and_its_requests_go_elsewhere() {
    let mut swarm = downloading(HaveSet::empty(1));
    connect(&mut swarm, NEAR, near(NEAR));
    give(&mut swarm, 1, said(NEAR, Word::HaveSet(HaveSet::full(1))));
    connect(&mut swarm, ALSO_NEAR, near(ALSO_NEAR));
    give(&mut swarm, 1, said(ALSO_NEAR, Word::HaveSet(HaveSet::full(1))));

    let effects = give(&mut swarm, 2, Input::PeerGone { peer: NEAR });

    assert_eq!(
        effects,
        [
            Effect::Cancel { request: RequestId(0) },
            Effect::Disconnect { peer: NEAR },
            fetch(1, Item::Chunk(0), ALSO_NEAR),
        ]
    );
}

const CHUNK_BYTES: u64 = 256 * 1024;

fn swarm() -> Swarm {
    Swarm::new(Config::default(), ME, "base".parse().unwrap())
}

/// A swarm with an open pack that holds this much.
fn downloading(have: HaveSet) -> Swarm {
    let mut swarm = swarm();
    give(&mut swarm, 0, Input::Want { artifact: ARTIFACT, manifest_bytes: 1024 });
    let frame_bytes = vec![u32::try_from(CHUNK_BYTES).unwrap(); have.chunks() as usize];
    give(&mut swarm, 0, Input::Opened { artifact: ARTIFACT, frame_bytes, have });
    swarm
}

/// A swarm that knows nobody else and has 200 chunks to fetch from Earth.
fn fetching_from_earth() -> Swarm {
    let mut swarm = downloading(HaveSet::empty(200));
    give(&mut swarm, 10, Input::Peer { peer: ORIGIN, site: "earth".parse().unwrap(), origin: true });
    wake(&mut swarm, 1_000);
    let asked = asked_of_earth(&give(&mut swarm, 2_000, Input::Connected { peer: ORIGIN }));
    assert!(!asked.is_empty() && asked.len() < 200);
    swarm
}

fn listens_to(effects: &[Effect], whom: PeerKey) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Subscribe { peer, .. } if *peer == whom))
}

fn asked_of_earth(effects: &[Effect]) -> Vec<u32> {
    let asked = effects.iter().filter_map(|effect| match effect {
        Effect::Fetch { item: Item::Chunk(chunk), peer: ORIGIN, .. } => Some(*chunk),
        _ => None,
    });
    asked.collect()
}

/// Makes a peer known, a member and connected. Its effects are drained.
fn connect(swarm: &mut Swarm, peer: PeerKey, known: Input) {
    give(swarm, 1, known);
    give(swarm, 1, Input::Member { artifact: ARTIFACT, peer });
    give(swarm, 1, Input::Connected { peer });
}

fn near(peer: PeerKey) -> Input {
    Input::Peer { peer, site: "base".parse().unwrap(), origin: false }
}

fn far(peer: PeerKey) -> Input {
    Input::Peer { peer, site: "ridge".parse().unwrap(), origin: false }
}

fn said(peer: PeerKey, word: Word) -> Input {
    Input::Said { artifact: ARTIFACT, peer, word }
}

/// What a member says that has nothing yet.
fn standing(chunks: u32, taking: Vec<u32>, heard: Vec<(u32, Duration)>) -> Word {
    Word::Standing { have: HaveSet::empty(chunks), taking, heard }
}

fn good(request: u64) -> Input {
    Input::Answered { request: RequestId(request), outcome: Outcome::Good { bytes: CHUNK_BYTES } }
}

fn fetch(request: u64, item: Item, peer: PeerKey) -> Effect {
    Effect::Fetch { request: RequestId(request), artifact: ARTIFACT, item, peer }
}

fn at(moment_ms: u64) -> Now {
    Now { moment: Moment(moment_ms), wall: WallTime(0) }
}

fn give(swarm: &mut Swarm, moment_ms: u64, input: Input) -> Vec<Effect> {
    swarm.handle(input, at(moment_ms));
    std::iter::from_fn(|| swarm.poll_effect()).collect()
}

fn wake(swarm: &mut Swarm, moment_ms: u64) -> Vec<Effect> {
    swarm.handle_timeout(at(moment_ms));
    std::iter::from_fn(|| swarm.poll_effect()).collect()
}
