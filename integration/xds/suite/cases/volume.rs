//! What is in a response, and how much of it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::wire::Kind::{self, Cluster, Endpoint, Route};
use super::super::wire::{Ask, Proto};
use super::super::world::Put;
use super::super::{Run, Step, fail};

/// What gRPC clients take in one message unless they are told otherwise.
const MESSAGE_LIMIT: usize = 4 << 20;

pub(super) async fn full_sets(run: &mut Run) -> Step {
    run.only(Proto::Sotw, "delta responses are what has changed")?;
    for kind in Kind::FULL {
        let mut client = run.client().await?;
        client.ask_for_all(kind).await?;
        let all = client.take(kind, "a=r1 b=r1").await?.items.len();
        run.world.set(kind, "b", 2).await?;
        let answer = client.take(kind, "a=r1 b=r2").await?;
        if answer.items.len() != all {
            return fail(format!("{} of {all}: {}", answer.items.len(), answer.short()));
        }
    }
    for kind in Kind::PARTIAL {
        let mut client = run.client().await?;
        client.subscribe(kind, &["a", "b"]).await?;
        client.take(kind, "a=r1 b=r1").await?;
        run.world.set(kind, "b", 2).await?;
        let answer = client.next(kind).await?;
        if !["b=r2", "a=r1 b=r2"].contains(&&*answer.held()) {
            return fail(format!("expected {} b=r2, heard {}", kind.label(), answer.short()));
        }
    }
    Ok(())
}

pub(super) async fn no_name_twice(run: &mut Run) -> Step {
    // Every response of every case is looked at for this; here the client asks for it.
    let mut client = run.client().await?;
    for (kind, names, held) in [
        (Cluster, &["a", "*", "a"][..], "a=r1 b=r1"),
        (Route, &["a", "a", "b"], "a=r1 b=r1"),
        (Endpoint, &["a", "b", "b", "a"], "a=r1 b=r1"),
    ] {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let ask = if run.is_delta() {
            Ask { subscribe: names, ..Default::default() }
        } else {
            Ask { names, ..Default::default() }
        };
        client.send(kind, ask).await?;
        client.take(kind, held).await?;
    }
    Ok(())
}

pub(super) async fn slow_reader(run: &mut Run) -> Step {
    const SIZE: usize = 256 << 10;
    const LAST: u64 = 20;
    let big = |revision| Put::new(Route, "a", revision).sized(SIZE);
    run.world.edit(vec![big(1)], &[]).await?;
    // Asks for far more than it takes, and reads nothing.
    let mut slow = run.slow_client().await?;
    let asked = if run.is_delta() { 40 } else { 1 };
    for _ in 0..asked {
        slow.subscribe(Route, &["a"]).await?;
    }
    let mut quick = run.client().await?;
    quick.subscribe(Route, &["a"]).await?;
    quick.take(Route, "a=r1").await?;
    for revision in 2..=LAST {
        run.world.edit(vec![big(revision)], &[]).await?;
        quick.take(Route, &format!("a=r{revision}")).await?;
    }
    // Now it reads, and comes to the latest without all that was in between.
    let mut revisions = BTreeSet::new();
    let mut latest = 0;
    for heard in 1.. {
        let answer = slow.next(Route).await?;
        slow.ack(&answer).await?;
        let revision = answer.held().strip_prefix("a=r").and_then(|number| number.parse::<u64>().ok());
        let Some(revision) = revision else { return fail(format!("expected route a, heard {}", answer.short())) };
        if revision < latest {
            return fail(format!("was sent revision {revision} after {latest}"));
        }
        latest = revision;
        revisions.insert(revision);
        if latest == LAST && heard >= asked {
            break;
        }
    }
    if revisions.len() > 10 {
        return fail(format!("{} revisions were kept for a client that does not read", revisions.len()));
    }
    Ok(())
}

pub(super) async fn many_edits(run: &mut Run) -> Step {
    let mut client = run.client().await?;
    client.ask_for_all(Cluster).await?;
    client.take(Cluster, "a=r1 b=r1").await?;
    for revision in 2..=101 {
        run.world.set(Cluster, "a", revision).await?;
    }
    let last = if run.is_delta() { "a=r101" } else { "a=r101 b=r1" };
    let mut pushes = 0;
    loop {
        let answer = client.next(Cluster).await?;
        client.ack(&answer).await?;
        pushes += 1;
        if answer.held() == last {
            break;
        }
        if pushes > 5 {
            return fail(format!("more than {pushes} pushes for 100 edits within one round trip"));
        }
    }
    client.quiet(Cluster).await
}

pub(super) async fn heartbeats(run: &mut Run) -> Step {
    let mut client = run.client().await?;
    client.subscribe(Route, &["a"]).await?;
    let answer = client.take(Route, "a=r1").await?;
    let Some(item) = answer.items.iter().find(|item| item.ttl.is_some()) else {
        // Without a TTL there is nothing to keep alive.
        return client.quiet(Route).await;
    };
    let ttl = item.ttl.unwrap_or_default();
    let heartbeat = tokio::time::timeout(ttl + Duration::from_secs(10), client.next(Route)).await;
    let Ok(heartbeat) = heartbeat else { return fail(format!("no heartbeat of a resource with a TTL of {ttl:?}")) };
    let heartbeat = heartbeat?;
    match &heartbeat.items[..] {
        [beat] if beat.name != item.name => fail(format!("a heartbeat of {}", beat.name)),
        [beat] if beat.body.is_some() => fail("a heartbeat with a body"),
        [beat] if beat.version != item.version || heartbeat.version != answer.version => {
            fail("a heartbeat with another version")
        }
        [_] => client.ack(&heartbeat).await,
        _ => fail(format!("not a heartbeat: {}", heartbeat.short())),
    }
}

pub(super) async fn large(run: &mut Run) -> Step {
    let names: Vec<_> = (0..6).map(|number| format!("big-{number}")).collect();
    let mut client = run.client().await?;
    for revision in 1..=2 {
        let big = names.iter().map(|name| Put::new(Cluster, name, revision).sized(1 << 20)).collect();
        run.world.edit(big, &[]).await?;
        if revision == 1 {
            client.ask_for_all(Cluster).await?;
        }
        let mut arrived = BTreeSet::new();
        while arrived.len() < names.len() {
            let answer = client.next(Cluster).await?;
            client.ack(&answer).await?;
            if run.is_delta() && answer.len > MESSAGE_LIMIT {
                return fail(format!("a response of {} bytes, more than clients take", answer.len));
            }
            let wanted = format!("r{revision}");
            let new = answer.items.iter().filter(|item| item.name.starts_with("big-") && item.revision() == wanted);
            arrived.extend(new.map(|item| item.name.clone()));
            if !run.is_delta() && arrived.len() < names.len() {
                return fail(format!("{} of {} in a full set", arrived.len(), names.len()));
            }
        }
    }
    client.quiet(Cluster).await
}

pub(super) async fn identifier(run: &mut Run) -> Step {
    let mut client = run.client().await?;
    for kind in Kind::ALL {
        client.subscribe(kind, &["a"]).await?;
        let answer = client.take(kind, "a=r1").await?;
        if answer.identifier.is_empty() {
            return fail(format!("none in {}", answer.short()));
        }
    }
    Ok(())
}
