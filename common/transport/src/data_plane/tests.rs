//! Two data planes in one process, on loopback.
//!
//! Owns a source whose frames can be told apart. Main invariant: every wait is for an answer. Refuses to know packs.

use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use futures::{StreamExt, stream};
use lunar_common::have_set::HaveSet;
use lunar_common::ids::{ArtifactId, PeerKey};

use super::{
    ChunkSource, ConnectError, DataPlane, DataPlaneConfig, Distance, FetchError, Note, PlaneLimits,
    SourceError,
};
use crate::fixture::Fleet;

const ARTIFACT: ArtifactId = ArtifactId([7; 32]);
const CHUNKS: u32 = 24;

#[tokio::test]
async fn frames_come_whole_and_no_stream_of_theirs_is_stopped_or_reset() {
    let fleet = Fleet::new("moon");
    let (server, key) = plane(&fleet, "server");
    let (client, _) = plane(&fleet, "client");
    let address = server.address().unwrap().to_string();
    let link = client.connect(key, &address, Distance::Near).await.unwrap();

    let fetched: Vec<(u32, Vec<u8>)> = stream::iter(0..CHUNKS)
        .map(|chunk| {
            let link = link.clone();
            async move { (chunk, link.frame(ARTIFACT, chunk, frame_bytes(chunk)).await.unwrap()) }
        })
        .buffer_unordered(8)
        .collect()
        .await;

    assert_eq!(fetched.len(), CHUNKS as usize);
    for (chunk, bytes) in fetched {
        assert!(bytes == frame(chunk), "chunk {chunk}");
    }
    // Each would be a packet, and an answer to it, that carries nothing.
    let told = link.connection.stats();
    for frames in [told.frame_tx, told.frame_rx] {
        assert_eq!((frames.stop_sending, frames.reset_stream), (0, 0));
    }
}

#[tokio::test]
async fn an_asker_that_gives_up_tells_the_sender_to_stop_and_goes_on_with_others() {
    let fleet = Fleet::new("moon");
    let (server, key) = plane(&fleet, "server");
    let (client, _) = plane(&fleet, "client");
    let address = server.address().unwrap().to_string();
    let link = client.connect(key, &address, Distance::Near).await.unwrap();

    let refused = link.frame(ARTIFACT, 3, frame_bytes(3) + 1).await.unwrap_err();
    let missing = link.frame(ARTIFACT, CHUNKS, 100).await.unwrap_err();
    let next = link.frame(ARTIFACT, 4, frame_bytes(4)).await.unwrap();

    assert!(matches!(refused, FetchError::Length { .. }), "{refused}");
    assert!(matches!(missing, FetchError::NotHave), "{missing}");
    assert!(next == frame(4));
    assert!(link.connection.stats().frame_tx.stop_sending >= 1);
}

#[tokio::test]
async fn whoever_begins_to_listen_hears_in_one_note_what_is_here_and_what_is_being_fetched() {
    let fleet = Fleet::new("moon");
    let (server, key) = plane(&fleet, "server");
    let (client, _) = plane(&fleet, "client");
    let address = server.address().unwrap().to_string();
    let link = client.connect(key, &address, Distance::Near).await.unwrap();
    server.fetches(ARTIFACT, vec![3, 5, 7, 9], Vec::new());
    server.fetches(ARTIFACT, vec![3, 9], vec![(11, Duration::from_secs(3_600)), (13, Duration::ZERO)]);

    let mut told = link.listen(ARTIFACT, true).await.unwrap();
    let first = told.next().await.unwrap();
    server.fetches(ARTIFACT, Vec::new(), vec![(11, Duration::from_secs(3_600))]);
    server.announce(ARTIFACT, Note::Haves(vec![3, 9]));
    let second = told.next().await.unwrap();
    let later = link.listen(ARTIFACT, true).await.unwrap().next().await.unwrap();

    let Note::Standing { have, taking, heard } = first else { panic!("{first:?}") };
    assert_eq!((have, taking), (HaveSet::full(CHUNKS), vec![3, 9]));
    assert!(matches!(heard[..], [(11, left)] if left <= 3_600_000), "{heard:?}");
    assert_eq!(second, Note::Haves(vec![3, 9]));
    assert!(matches!(later, Note::Standing { taking, .. } if taking.is_empty()));
}

#[tokio::test]
async fn whoever_fetches_for_nobody_hears_nothing_of_what_is_being_fetched() {
    let fleet = Fleet::new("moon");
    let (server, key) = plane(&fleet, "server");
    let (client, _) = plane(&fleet, "client");
    let address = server.address().unwrap().to_string();
    let link = client.connect(key, &address, Distance::Near).await.unwrap();
    server.fetches(ARTIFACT, vec![3], vec![(11, Duration::from_secs(3_600))]);

    let mut listens = link.listen(ARTIFACT, false).await.unwrap();
    let mut follows = link.listen(ARTIFACT, true).await.unwrap();
    let (plain, whole) = (listens.next().await.unwrap(), follows.next().await.unwrap());
    for note in [Note::Taking(5), Note::Left(5), Note::Haves(vec![3])] {
        server.announce(ARTIFACT, note);
    }

    assert_eq!(plain, Note::HaveSet(HaveSet::full(CHUNKS)));
    assert!(matches!(whole, Note::Standing { .. }), "{whole:?}");
    assert_eq!(listens.next().await.unwrap(), Note::Haves(vec![3]));
    assert_eq!(follows.next().await.unwrap(), Note::Taking(5));
}

#[tokio::test]
async fn another_machine_than_the_one_that_was_dialled_is_not_spoken_to() {
    let fleet = Fleet::new("moon");
    let (server, _) = plane(&fleet, "server");
    let (client, _) = plane(&fleet, "client");
    let (_other, other_key) = plane(&fleet, "other");
    let address = server.address().unwrap().to_string();

    let refused = client.connect(other_key, &address, Distance::Near).await.unwrap_err();

    assert!(matches!(refused, ConnectError::Broken(_)), "{refused}");
}

fn plane(fleet: &Fleet, name: &str) -> (DataPlane, PeerKey) {
    let key = SigningKey::from_bytes(blake3::hash(name.as_bytes()).as_bytes());
    let gate = fleet.gate(fleet.enrol(name, &key, "base"), "");
    let config = DataPlaneConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        secret: key.to_bytes(),
        gate,
        source: Arc::new(Numbered),
        limits: PlaneLimits::agent(),
    };
    let (plane, _incoming) = DataPlane::bind(config).unwrap();
    (plane, PeerKey(key.verifying_key().to_bytes()))
}

/// Has every chunk; each is of another length, and tells its number in every byte.
struct Numbered;

impl ChunkSource for Numbered {
    fn have(&self, artifact: ArtifactId) -> Option<HaveSet> {
        (artifact == ARTIFACT).then(|| HaveSet::full(CHUNKS))
    }

    fn manifest(&self, _: ArtifactId) -> Result<Option<Vec<u8>>, SourceError> {
        Ok(None)
    }

    fn frame(&self, artifact: ArtifactId, chunk: u32) -> Result<Option<Vec<u8>>, SourceError> {
        Ok((artifact == ARTIFACT && chunk < CHUNKS).then(|| frame(chunk)))
    }
}

fn frame_bytes(chunk: u32) -> u32 {
    1 + chunk * 20_011
}

fn frame(chunk: u32) -> Vec<u8> {
    (0..frame_bytes(chunk)).map(|place| (place ^ chunk).to_le_bytes()[0]).collect()
}
