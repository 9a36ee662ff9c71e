//! Finding the origin by the directories alone.

use lunar_agent::sources::Sources;
use lunar_common::document::Document;
use lunar_common::plan::Plan;
use lunar_transport::mesh::{Mesh, MeshBounds, MeshConfig, MeshEvent, PeerAddress};
use tokio::sync::mpsc;
use tokio::time::sleep_until;

use super::any;
use super::fleet::{Counting, Machine, Published, agent, is_whole, origin, trust};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_told_of_no_origin_finds_it_by_the_directories_and_fetches_from_it() {
    let published = Published::new(2 * 1024 * 1024);
    let id = published.id();
    let (directory, _directory_events) = mesh_of(agent(91, "base"), None, "").await;
    // The origin is connected to the directory, and offers what it has.
    let source = Counting::new(&published);
    let (plane, _links) = origin().plane_behind(origin().gate(), any(), source.clone());
    let data_address = plane.address().unwrap().to_string();
    let (earth, mut earth_events) = mesh_of(origin(), Some(&directory), &data_address).await;
    joined(&mut earth_events).await;
    earth.provide_as_origin(id).await;
    // So is the agent. Nothing that the mesh tells of who is connected reaches its sources here: look-ups alone do.
    let seeker = agent(92, "ridge");
    let packs = tempfile::tempdir().unwrap();
    let (fetcher, mut events) = seeker.fetcher(packs.path());
    let address = fetcher.address().to_string();
    let (mesh, mut mesh_events) = mesh_of(seeker, Some(&directory), &address).await;
    joined(&mut mesh_events).await;
    // What is offered becomes known within moments; there is no event for it at the one who seeks.
    while mesh.origins(id).await.is_empty() {
        tokio::task::yield_now().await;
    }
    let me = trust().verify_enrolment(&seeker.enrolment()).unwrap();
    let (found, mut found_peers) = mpsc::channel(16);
    let mut sources = Sources::new(fetcher, mesh, &me, address, found);

    sources.want(&plan(&published)).await;
    let progress = loop {
        let look_up_at = sources.look_up_at().unwrap();
        tokio::select! {
            Some(event) = events.recv() => {
                let progress = sources.fetched(event).await;
                assert_eq!(progress.failure, None);
                if progress.complete == [id] {
                    break progress;
                }
            }
            Some(found) = found_peers.recv() => sources.found(found).await,
            () = sleep_until(look_up_at) => sources.look_up(),
        }
    };

    // Every byte, and the manifest.
    assert_eq!(progress.received.earth, published.built.frame_bytes + published.manifest_bytes());
    sources.stop().await;
    is_whole(packs.path(), id);
}

/// A machine's mesh, connected to a directory, or a directory itself. It chooses no neighbours of its own.
async fn mesh_of(
    machine: Machine,
    directory: Option<&Mesh>,
    data_address: &str,
) -> (Mesh, mpsc::Receiver<MeshEvent>) {
    let gate = machine.gate();
    gate.set_data_address(data_address.to_owned());
    let mut bootstrap = Vec::new();
    if let Some(directory) = directory {
        let address = directory.listen_addresses().await.remove(0);
        bootstrap.push(PeerAddress { key: Some(directory.key()), address });
    }
    Mesh::start(MeshConfig {
        key: ed25519_dalek::SigningKey::from_bytes(&machine.secret()),
        fleet: "moon".parse().unwrap(),
        site: machine.site.parse().unwrap(),
        listen: vec!["127.0.0.1:0".to_owned()],
        announce: Vec::new(),
        bootstrap,
        gate,
        directory: directory.is_none(),
        bounds: MeshBounds { site_connections_low: 0, beyond_connections_low: 0, ..MeshBounds::agent() },
    })
    .await
    .unwrap()
}

async fn joined(events: &mut mpsc::Receiver<MeshEvent>) {
    while !matches!(events.recv().await.expect("the mesh is there"), MeshEvent::Joined { .. }) {}
}

fn plan(published: &Published) -> Plan {
    let (id, before, bytes) = (published.id(), "11".repeat(32), published.manifest_bytes());
    let text = format!(
        "format = 1\nfleet = \"moon\"\ncampaign = \"web-2\"\ngeneration = 1\nauthor = \"ann\"\n\
         issued = \"2026-01-02T00:00:00Z\"\nexpires = \"2099-01-01T00:00:00Z\"\n[select]\n[limits]\nfleet = 100\n\
         [limits.tier]\n3 = 100\n[limits.site]\ndefault = 100\n[limits.cluster]\ndefault = 100\n[[artifact]]\n\
         name = \"web\"\nversion = \"2\"\nid = \"{id}\"\nmanifest_bytes = {bytes}\nbytes = 100000\n\
         [[artifact.from]]\nversion = \"1\"\nid = \"{before}\"\n[install]\nkind = \"release\"\n\
         restart = {{ unit = \"web.service\" }}\n[health]\nsoak_s = 60\n[[health.probe]]\nname = \"up\"\n\
         kind = \"http\"\nurl = \"http://127.0.0.1:8080/health\"\n"
    );
    Plan::parse(text.as_bytes()).unwrap()
}
