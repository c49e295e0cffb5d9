//! What a client subscribes to.

use super::super::wire::Kind::{self, Cluster, Endpoint, Listener, Route, Secret};
use super::super::wire::{Ask, Proto};
use super::super::world::Put;
use super::super::{Run, Step, fail};

pub(super) async fn empty_is_a_wildcard(run: &mut Run) -> Step {
    let mut client = run.client().await?;
    for kind in Kind::FULL {
        client.ask_for_all(kind).await?;
        client.take(kind, "a=r1 b=r1").await?;
    }
    for kind in Kind::PARTIAL {
        let mut client = run.client().await?;
        client.ask_for_all(kind).await?;
        client.quiet(kind).await?;
    }
    Ok(())
}

pub(super) async fn wildcard_let_go(run: &mut Run) -> Step {
    for kind in Kind::FULL {
        let mut client = run.client().await?;
        client.subscribe(kind, &["*", "a"]).await?;
        client.take(kind, "a=r1 b=r1").await?;
        client.unsubscribe(kind, &["*"]).await?;
        client.quiet(kind).await?;
        run.world.edit(vec![Put::new(kind, "a", 2), Put::new(kind, "b", 2)], &[]).await?;
        client.take(kind, "a=r2").await?;
        client.unsubscribe(kind, &["a"]).await?;
        let fence = client.fence();
        client.subscribe(kind, &[&fence]).await?;
        client.take(kind, "").await?;
        run.world.edit(vec![Put::new(kind, "a", 3), Put::new(kind, "b", 3), Put::new(kind, &fence, 2)], &[]).await?;
        client.take(kind, "").await?;
    }
    Ok(())
}

pub(super) async fn wildcard_and_more(run: &mut Run) -> Step {
    run.only(Proto::Delta, "SotW: a request with names is no longer a wildcard")?;
    for kind in Kind::FULL {
        let mut client = run.client().await?;
        client.ask_for_all(kind).await?;
        client.take(kind, "a=r1 b=r1").await?;
        client.subscribe(kind, &["a"]).await?;
        client.take(kind, "a=r1").await?;
        run.world.set(kind, "b", 2).await?;
        client.take(kind, "b=r2").await?;
    }
    Ok(())
}

pub(super) async fn unsubscribed_under_wildcard(run: &mut Run) -> Step {
    for kind in Kind::FULL {
        let mut client = run.client().await?;
        client.subscribe(kind, &["*", "a", "missing-1"]).await?;
        let first = client.next(kind).await?;
        client.ack(&first).await?;
        client.unsubscribe(kind, &["a"]).await?;
        let answer = client.next(kind).await?;
        client.ack(&answer).await?;
        let held = answer.held();
        if !held.contains("a=r1") {
            return fail(format!("expected {} a again, heard {}", kind.label(), answer.short()));
        }
        if run.is_delta() {
            client.unsubscribe(kind, &["missing-1"]).await?;
            client.take(kind, "-missing-1").await?;
        }
    }
    Ok(())
}

pub(super) async fn subscribed_again(run: &mut Run) -> Step {
    let mut client = run.client().await?;
    for kind in Kind::PARTIAL {
        client.subscribe(kind, &["a", "b"]).await?;
        client.take(kind, "a=r1 b=r1").await?;
        for round in 0..3 {
            // Delta may just say it again; and both may let go in between.
            if !run.is_delta() || round % 2 == 1 {
                client.unsubscribe(kind, &["a"]).await?;
            }
            client.subscribe(kind, &["a"]).await?;
            let answer = client.next(kind).await?;
            client.ack(&answer).await?;
            if !answer.held().contains("a=r1") {
                return fail(format!("expected {} a again, heard {}", kind.label(), answer.short()));
            }
        }
    }
    Ok(())
}

pub(super) async fn does_not_exist(run: &mut Run) -> Step {
    let mut client = run.client().await?;
    let name = "missing-1";
    for kind in [Endpoint, Route, Secret, Cluster, Listener] {
        // How the variant says that it does not exist, next to what does.
        let (asked, gone) = match (run.variant.proto, kind) {
            (Proto::Delta, _) => (&[name][..], Some("-missing-1")),
            (Proto::Sotw, Endpoint) => (&[name][..], Some("missing-1=")),
            (Proto::Sotw, Cluster | Listener) => (&["b", name][..], Some("b=r1")),
            (Proto::Sotw, Route | Secret) => (&[name][..], None),
        };
        client.subscribe(kind, asked).await?;
        match gone {
            Some(gone) => drop(client.take(kind, gone).await?),
            // An empty response would end the wait of whoever needs it.
            None => client.quiet(kind).await?,
        }
        run.world.set(kind, name, 1).await?;
        let comes = if asked.len() > 1 { "b=r1 missing-1=r1" } else { "missing-1=r1" };
        client.take(kind, comes).await?;
        if let Some(gone) = gone {
            run.world.remove(kind, name).await?;
            client.take(kind, gone).await?;
        }
    }
    Ok(())
}

pub(super) async fn wildcard_of_nothing(run: &mut Run) -> Step {
    run.world.clear().await?;
    let mut client = run.client().await?;
    for kind in Kind::FULL {
        client.ask_for_all(kind).await?;
        let answer = client.take(kind, "").await?;
        if !answer.items.is_empty() {
            return fail(format!("there is nothing, but heard {}", answer.short()));
        }
    }
    Ok(())
}

pub(super) async fn never_subscribed(run: &mut Run) -> Step {
    run.only(Proto::Delta, "SotW: a request lists what is wanted, and nothing else")?;
    let mut client = run.client().await?;
    for kind in [Route, Secret] {
        client.subscribe(kind, &["a"]).await?;
        client.take(kind, "a=r1").await?;
        let names = ["b", "missing-1", "*"].map(str::to_owned).to_vec();
        client.send(kind, Ask { unsubscribe: names, ..Default::default() }).await?;
        client.quiet(kind).await?;
        run.world.edit(vec![Put::new(kind, "a", 2), Put::new(kind, "b", 2)], &[]).await?;
        client.take(kind, "a=r2").await?;
    }
    // Under a wildcard a name that is nothing to the server is nothing to say something about.
    client.ask_for_all(Cluster).await?;
    client.take(Cluster, "a=r1 b=r1").await?;
    client.unsubscribe(Cluster, &["missing-1"]).await?;
    client.quiet(Cluster).await
}
