//! Who is out is cut off: a running coordinator, real members in the mesh, documents handed over as people do.
//!
//! Owns what becomes of connections when a document changes who is a member.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use lunar_common::document::{Kind, SignedDocument};
use lunar_common::message::{Request, Response};
use lunar_host::keys;
use lunar_transport::mesh::{Mesh, MeshEvent};
use support::{Home, STUCK, enrolment_text, key, member, revocation, root, signed};
use tokio::sync::mpsc;
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_machine_is_cut_off_and_the_others_stay() {
    let home = Home::founded([1, 2]);
    let serving = home.serve();
    let (_first, mut first) = member(1, &serving.address).await;
    let (second, _second) = member(2, &serving.address).await;

    hand_over(&home, &second, revocation(&[1])).await;

    left(&mut first, &home).await;
    // Known already, and said by one who is still connected.
    hand_over(&home, &second, revocation(&[1])).await;
    assert!(home.run(&["--output", "json", "history", "srv-1"]).out.contains("ServerRevoked"));
    assert!(!home.run(&["--output", "json", "history", "srv-2"]).out.contains("ServerRevoked"));
    assert_eq!(serving.stop().0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trust_root_that_vouches_for_a_machine_no_more_cuts_it_off() {
    let home = Home::founded([1, 2]);
    let serving = home.serve();
    let (_first, mut first) = member(1, &serving.address).await;
    let (second, _second) = member(2, &serving.address).await;

    // From now on bob enrols, and nobody that ann enrolled is a member: the coordinator itself included.
    // Whoever brings it is out by it as well, and may be cut off before the answer.
    let _ = second.request(coordinator(&home), Request::Document(root(2, "bob"))).await;

    left(&mut first, &home).await;
    assert!(home.run(&["--output", "json", "history", "srv-1"]).out.contains("ServerRevoked"));
    assert_eq!(serving.stop().0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_nobody_signed_is_refused_to_the_machine_that_brings_it() {
    let home = Home::founded([1]);
    let serving = home.serve();
    let (mesh, _events) = member(1, &serving.address).await;
    let text = enrolment_text("srv-9", key(9), "agent", 1);
    let unsigned =
        SignedDocument { kind: Kind::Enrolment, body: text.clone().into_bytes(), signatures: Vec::new() };

    let answer = mesh.request(coordinator(&home), Request::Document(unsigned)).await.unwrap();
    assert!(matches!(answer, Response::Refused { .. }), "{answer:?}");
    let wrong = signed(Kind::Enrolment, text.clone(), 2);
    let answer = mesh.request(coordinator(&home), Request::Document(wrong)).await.unwrap();
    assert!(matches!(answer, Response::Refused { .. }), "{answer:?}");

    hand_over(&home, &mesh, signed(Kind::Enrolment, text, 1)).await;
    assert_eq!(serving.stop().0, 0);
}

fn coordinator(home: &Home) -> lunar_common::ids::PeerKey {
    keys::peer_key(&keys::load(&home.path("identity.key")).unwrap())
}

async fn hand_over(home: &Home, mesh: &Mesh, document: SignedDocument) {
    let answer = timeout(STUCK, mesh.request(coordinator(home), Request::Document(document))).await.unwrap();
    assert_eq!(answer.unwrap(), Response::Done);
}

async fn left(events: &mut mpsc::Receiver<MeshEvent>, home: &Home) {
    let coordinator = coordinator(home);
    let gone = async {
        loop {
            match events.recv().await {
                Some(MeshEvent::Left { peer }) if peer == coordinator => return,
                Some(_) => {}
                None => panic!("the mesh has ended"),
            }
        }
    };
    timeout(STUCK, gone).await.expect("it is cut off");
}
