//! Streams: how they begin, go on side by side, and end.

use std::collections::BTreeMap;

use super::super::client::Windows;
use super::super::session::Client;
use super::super::wire::Kind::{self, Cluster, Listener, Route, Secret};
use super::super::wire::{Ask, Proto};
use super::super::world::Put;
use super::super::{Run, Step, fail};

pub(super) async fn reconnect(run: &mut Run) -> Step {
    run.only(Proto::Delta, "SotW has no initial_resource_versions")?;
    let mut client = run.client().await?;
    client.subscribe(Cluster, &["*"]).await?;
    let clusters = client.take(Cluster, "a=r1 b=r1").await?;
    client.subscribe(Route, &["a", "b", "fence-7"]).await?;
    let routes = client.take(Route, "a=r1 b=r1").await?;
    drop(client);
    let brought = |answer: &super::super::wire::Answer| {
        answer.items.iter().map(|item| (item.name.clone(), item.version.clone())).collect()
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();

    // Nothing has changed: an empty answer to the wildcard, and none to the names.
    let mut client = run.client().await?;
    let ask = Ask { subscribe: names(&["*"]), initial: brought(&clusters), ..Default::default() };
    client.send(Cluster, ask).await?;
    let answer = client.take(Cluster, "").await?;
    if !answer.items.is_empty() {
        return fail(format!("resent what the client has: {}", answer.short()));
    }
    let wanted = names(&["a", "b", "fence-7"]);
    let ask = || Ask { subscribe: wanted.clone(), initial: brought(&routes), ..Default::default() };
    client.send(Route, ask()).await?;
    client.quiet(Route).await?;
    drop(client);

    // One has changed, one has vanished: told in one response or in two.
    run.world.edit(vec![Put::new(Route, "b", 2)], &[(Route, "fence-7")]).await?;
    let mut client = run.client().await?;
    client.send(Route, ask()).await?;
    let mut told = Vec::new();
    while told.len() < 2 {
        let answer = client.next(Route).await?;
        client.ack(&answer).await?;
        told.extend(answer.items.iter().map(|item| format!("{}={}", item.name, item.revision())));
        told.extend(answer.removed.iter().map(|name| format!("-{name}")));
    }
    told.sort();
    if told != ["-fence-7", "b=r2"] {
        return fail(format!("expected b=r2 and -fence-7, heard {}", told.join(" ")));
    }
    client.quiet(Route).await
}

pub(super) async fn same_versions(run: &mut Run) -> Step {
    let mut here = versions(run, run.client().await?).await?;
    for _ in 0..2 {
        let again = versions(run, run.client().await?).await?;
        compare(&here, &again, "on another stream")?;
    }
    run.world.edit(vec![Put::new(Cluster, "a", 2), Put::new(Secret, "c", 1)], &[(Route, "b")]).await?;
    here = versions(run, run.client().await?).await?;
    let replica = run.world.replica().await?.parse().map_err(super::super::Failure::Fail)?;
    let there = versions(run, run.client_at(&replica, Windows::Large).await?).await?;
    compare(&here, &there, "on a replica")
}

fn compare(here: &BTreeMap<String, String>, there: &BTreeMap<String, String>, place: &str) -> Step {
    for (what, version) in here {
        let other = there.get(what).map_or("nothing", String::as_str);
        if other != version {
            return fail(format!("{what} is {version:?} here, and {other:?} {place}"));
        }
    }
    Ok(())
}

/// Every version that a client sees.
async fn versions(run: &Run, mut client: Client) -> Step<BTreeMap<String, String>> {
    let mut versions = BTreeMap::new();
    for kind in Kind::ALL {
        if kind.is_full() {
            client.ask_for_all(kind).await?;
        } else {
            client.subscribe(kind, &["a"]).await?;
        }
        let answer = client.next(kind).await?;
        client.ack(&answer).await?;
        if answer.version.is_empty() {
            // Delta's `system_version_info` is for debugging alone.
            run.only(Proto::Delta, "").map_err(|_| super::super::Failure::Fail("no version_info".to_owned()))?;
        }
        versions.insert(format!("the version of {}", kind.label()), answer.version);
        for item in answer.items {
            versions.insert(format!("{} {}", kind.label(), item.name), item.version);
        }
    }
    Ok(versions)
}

pub(super) async fn node_once(run: &mut Run) -> Step {
    let mut client = run.client().await?;
    // The client says who it is on the first message of a stream alone.
    client.subscribe(Route, &["a"]).await?;
    client.take(Route, "a=r1").await?;
    client.subscribe(Route, &["missing-1", "b"]).await?;
    let answer = client.next(Route).await?;
    client.ack(&answer).await?;
    if !answer.held().contains("b=r1") {
        return fail(format!("expected route b, heard {}", answer.short()));
    }
    client.quiet(Route).await
}

pub(super) async fn no_node(run: &mut Run) -> Step {
    for kind in [Cluster, Route] {
        let mut client = run.client().await?;
        let ask = if run.is_delta() {
            Ask { subscribe: vec!["a".to_owned()], ..Default::default() }
        } else {
            Ask { names: vec!["a".to_owned()], ..Default::default() }
        };
        client.send_bare(kind, ask).await?;
        match client.hear(kind).await? {
            Ok(answer) => return fail(format!("a client that does not say who it is was sent {}", answer.short())),
            // INVALID_ARGUMENT, PERMISSION_DENIED, FAILED_PRECONDITION, UNAUTHENTICATED.
            Err(ended) if ended.code.is_none_or(|code| ![3, 7, 9, 16].contains(&code)) => {
                return fail(format!("not a clear error: {ended}"));
            }
            Err(ended) if !ended.message.contains("node") => {
                return fail(format!("an error that does not say what is missing: {ended}"));
            }
            Err(_) => {}
        }
    }
    Ok(())
}

pub(super) async fn unknown_type(run: &mut Run) -> Step {
    run.only_aggregated("a stream for one type serves that type alone")?;
    for first in [true, false] {
        let mut client = run.client().await?;
        if !first {
            client.ask_for_all(Cluster).await?;
            client.take(Cluster, "a=r1 b=r1").await?;
        }
        let url = "type.googleapis.com/envoy.service.runtime.v3.Runtime".to_owned();
        let names = vec!["a".to_owned()];
        client.send(Route, Ask { url, names: names.clone(), subscribe: names, ..Default::default() }).await?;
        client.quiet(Route).await?;
        client.subscribe(Route, &["a"]).await?;
        client.take(Route, "a=r1").await?;
    }
    Ok(())
}

pub(super) async fn both_kinds_of_streams(run: &mut Run) -> Step {
    let mut one = run.client().await?;
    let mut other = one.sibling(!run.variant.aggregated);
    for client in [&mut one, &mut other] {
        client.subscribe(Route, &["a"]).await?;
        client.take(Route, "a=r1").await?;
        client.ask_for_all(Cluster).await?;
        client.take(Cluster, "a=r1 b=r1").await?;
    }
    run.world.set(Route, "a", 2).await?;
    for client in [&mut one, &mut other] {
        client.take(Route, "a=r2").await?;
    }
    drop(one);
    run.world.set(Route, "a", 3).await?;
    other.take(Route, "a=r3").await?;
    Ok(())
}

pub(super) async fn forgotten_type(run: &mut Run) -> Step {
    run.only_aggregated("the stream of a type does not know what others ask for")?;
    run.world.edit(vec![Put::new(Listener, "a", 1).needing(Route, "a")], &[]).await?;
    let mut client = run.client().await?;
    client.ask_for_all(Listener).await?;
    let listeners = client.take(Listener, "a=r1 b=r1").await?;
    drop(client);
    let resumed = if run.is_delta() {
        let initial = listeners.items.iter().map(|item| (item.name.clone(), item.version.clone())).collect();
        Ask { subscribe: vec!["*".to_owned()], initial, ..Default::default() }
    } else {
        Ask { version: listeners.version.clone(), ..Default::default() }
    };
    let mut good = run.client().await?;
    good.send(Listener, resumed.clone()).await?;
    if run.is_delta() {
        good.take(Listener, "").await?;
    }
    good.subscribe(Route, &["a"]).await?;
    good.take(Route, "a=r1").await?;

    let mut client = run.client().await?;
    client.send(Listener, resumed).await?;
    loop {
        match client.hear(Listener).await? {
            Ok(answer) if answer.kind() == Some(Listener) => client.ack(&answer).await?,
            Ok(answer) => return fail(format!("was sent what it did not ask for: {}", answer.short())),
            // UNAVAILABLE: come again.
            Err(ended) if ended.code == Some(14) => break,
            Err(ended) => return fail(ended.to_string()),
        }
    }
    // A client that asked for everything again goes on.
    good.quiet(Route).await
}

pub(super) async fn two_streams(run: &mut Run) -> Step {
    let mut one = run.client().await?;
    let mut two = run.client().await?;
    for client in [&mut one, &mut two] {
        client.subscribe(Route, &["a"]).await?;
    }
    for client in [&mut one, &mut two] {
        client.take(Route, "a=r1").await?;
    }
    run.world.set(Route, "a", 2).await?;
    let rejected = one.expect(Route, "a=r2").await?;
    two.take(Route, "a=r2").await?;
    one.nack(&rejected).await?;
    // What one rejects and lets go of is nothing to the other.
    one.quiet(Route).await?;
    one.unsubscribe(Route, &["a"]).await?;
    one.quiet(Route).await?;
    run.world.set(Route, "a", 3).await?;
    two.take(Route, "a=r3").await?;
    drop(one);
    run.world.set(Route, "a", 4).await?;
    two.take(Route, "a=r4").await?;
    two.quiet(Route).await
}
