//! A real Galera cluster as the store: nodes are killed, halted, and lost all at once. No ID is handed out twice.
//!
//! `make galera` installs what this takes and runs it. The servers write through different nodes of the cluster, and know
//! all of them.

mod cluster;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cluster::{Cluster, NODES};
use idalloc_testing::ledger::Ledger;
use idalloc_testing::load::{Load, Wish};
use idalloc_testing::node::Node;

const TAG: &str = "orders";
const ALLOC: &str = "/alloc?app_tag=orders";
const ENGINES: [&str; NODES] = ["tokio", "may_minihttp", "tokio"];
const ID_CLIENTS_PER_SERVER: u64 = 2;

/// How soon every server serves when the cluster is whole again; a busy machine included.
const RECOVERY_MAX: Duration = Duration::from_secs(10);
/// Long enough for the others to go on without a node that is halted: they wait for 5 s.
const HALTED: Duration = Duration::from_secs(8);
const CALM: Duration = Duration::from_secs(3);

/// Lets clients allocate from three servers, each with another node as its first, while `fail` is at work; `fail` leaves
/// the cluster whole.
fn survive(what: &str, fail: impl FnOnce(&Cluster)) {
    // A cluster is enough for one machine.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = Cluster::start();
    cluster.exec(&format!("INSERT INTO segments (app_tag, max_id, step) VALUES ('{TAG}', 0, 1000)"));
    let watermarks = tempfile::tempdir().expect("a directory");
    let start = |(index, engine): (usize, &&'static str)| {
        Node::start(engine, cluster.dsn(index), watermarks.path().join(format!("{index}.db")))
    };
    let nodes: Vec<_> = ENGINES.iter().enumerate().map(start).collect();
    let ledger = Arc::new(Ledger::default());
    let load = load(&nodes, &ledger);
    load.await_answers();

    fail(&cluster);
    let over = Instant::now();
    for node in &nodes {
        node.await_service(ALLOC);
        assert!(over.elapsed() < RECOVERY_MAX, "{} serves after {:?}", node.engine, over.elapsed());
    }
    let recovery = over.elapsed();
    load.await_answers();

    let seen = load.stop();
    nodes.iter().for_each(Node::stop);
    let max_id = cluster.exec(&format!("SELECT max_id FROM segments WHERE app_tag = '{TAG}'"));
    ledger.assert_sound(max_id.expect("a row"));
    eprintln!("{what}: every server served again after {recovery:.2?}; {seen:.2?}, {:?}", ledger.sums());
}

fn load(nodes: &[Node], ledger: &Arc<Ledger>) -> Load {
    let mut load = Load::default();
    for node in nodes {
        for seed in 0..ID_CLIENTS_PER_SERVER {
            load.add(ledger, node.port(), TAG, Wish::Ids, seed);
        }
        load.add(ledger, node.port(), TAG, Wish::Leases, ID_CLIENTS_PER_SERVER);
    }
    load
}

#[test]
fn servers_that_write_through_several_nodes_hand_out_distinct_ids() {
    survive("several writers", |cluster| {
        thread::sleep(4 * CALM);
        for node in 0..NODES {
            assert!(cluster.updates(node) > 0, "nobody writes through node {node}");
        }
    });
}

#[test]
fn a_node_that_is_killed_and_rejoins_costs_no_id_twice() {
    survive("each node killed once", |cluster| {
        for node in 0..NODES {
            cluster.kill(node);
            thread::sleep(CALM);
            cluster.rejoin(node);
            thread::sleep(CALM);
        }
    });
}

#[test]
fn a_node_that_is_halted_and_goes_on_costs_no_id_twice() {
    survive("each node halted once", |cluster| {
        for node in 0..NODES {
            cluster.pause(node);
            thread::sleep(HALTED);
            cluster.resume(node);
            thread::sleep(CALM);
        }
    });
}

#[test]
fn a_cluster_that_is_killed_and_recovered_costs_no_id_twice() {
    survive("all nodes killed twice", |cluster| {
        for _ in 0..2 {
            (0..NODES).for_each(|node| cluster.kill(node));
            thread::sleep(CALM);
            cluster.recover();
            thread::sleep(CALM);
        }
    });
}
