//! ACKs, NACKs and nonces.

use super::super::session::rejection;
use super::super::wire::Kind::{Endpoint, Route};
use super::super::wire::{Ask, Proto};
use super::super::world::Put;
use super::super::{Run, Step, fail};

pub(super) async fn stale_nonce(run: &mut Run) -> Step {
    run.only(Proto::Sotw, "delta: case 2")?;
    let mut client = run.client().await?;
    client.subscribe(Route, &["a"]).await?;
    let first = client.take(Route, "a=r1").await?;
    let more = client.fence();
    client.subscribe(Route, &[&more]).await?;
    let second = client.next(Route).await?;
    // Says `b` with the nonce of the response before.
    let (nonce, version) = (first.nonce.clone(), first.version.clone());
    let names = vec!["a".to_owned(), "b".to_owned(), more];
    client.send(Route, Ask { names, nonce, version, ..Default::default() }).await?;
    // Then answers the latest, without `b`.
    client.ack(&second).await?;
    let last = client.fence();
    client.subscribe(Route, &[&last]).await?;
    let answer = client.next(Route).await?;
    if answer.items.iter().any(|item| item.name == "b") {
        return fail(format!("what a stale request says was answered: {}", answer.short()));
    }
    client.ack(&answer).await?;
    // Said again with the nonce it has seen, it counts.
    client.subscribe(Route, &["b"]).await?;
    let answer = client.next(Route).await?;
    if !answer.held().contains("b=r1") {
        return fail(format!("expected route b, heard {}", answer.short()));
    }
    Ok(())
}

pub(super) async fn stale_nonce_with_a_change(run: &mut Run) -> Step {
    run.only(Proto::Delta, "SotW: case 1")?;
    let mut client = run.client().await?;
    client.subscribe(Route, &["a"]).await?;
    let first = client.take(Route, "a=r1").await?;
    let more = client.fence();
    client.subscribe(Route, &[&more]).await?;
    client.next(Route).await?;
    let stale = Ask { nonce: first.nonce, subscribe: vec!["b".to_owned()], ..Default::default() };
    client.send(Route, stale).await?;
    client.take(Route, "b=r1").await?;
    // A nonce that never was.
    let never = Ask { nonce: "nonsense".to_owned(), subscribe: vec!["missing-1".to_owned()], ..Default::default() };
    client.send(Route, never).await?;
    client.take(Route, "-missing-1").await?;
    // Letting go counts as well.
    let stale = Ask { nonce: "nonsense".to_owned(), unsubscribe: vec!["b".to_owned()], ..Default::default() };
    client.send(Route, stale).await?;
    client.quiet(Route).await?;
    run.world.edit(vec![Put::new(Route, "a", 2), Put::new(Route, "b", 2)], &[]).await?;
    client.take(Route, "a=r2").await?;
    Ok(())
}

pub(super) async fn known_by_error_detail(run: &mut Run) -> Step {
    let mut client = run.client().await?;
    client.subscribe(Route, &["a", "b"]).await?;
    client.take(Route, "a=r1 b=r1").await?;
    run.world.edit(vec![Put::new(Route, "a", 2), Put::new(Route, "b", 2)], &[]).await?;
    let pushed = client.expect(Route, "a=r2 b=r2").await?;
    // A NACK, although it names the new version.
    let (nonce, version) = (pushed.nonce.clone(), pushed.version.clone());
    let standing = client.standing(Route);
    let ask = if run.is_delta() { Ask::default() } else { Ask { version, ..standing } };
    client.send(Route, Ask { nonce, error: Some(rejection()), ..ask }).await?;
    client.quiet(Route).await?;
    let nacked = run.world.count("nacked", Route).await?;
    if nacked != 1 {
        return fail(format!("the server counts {nacked} NACKs"));
    }
    // So `b` is in doubt as well, and comes again with the repair.
    run.world.set(Route, "a", 3).await?;
    client.take(Route, "a=r3 b=r2").await?;
    // An ACK, although it names an old version.
    run.world.set(Route, "a", 4).await?;
    let pushed = client.next(Route).await?;
    let nonce = pushed.nonce.clone();
    let standing = client.standing(Route);
    let version = "an older version".to_owned();
    let ask = if run.is_delta() { Ask::default() } else { Ask { version, ..standing } };
    client.send(Route, Ask { nonce, ..ask }).await?;
    client.quiet(Route).await?;
    let nacked = run.world.count("nacked", Route).await?;
    if nacked != 1 {
        return fail(format!("an ACK with an old version was taken for a NACK: the server counts {nacked}"));
    }
    Ok(())
}

pub(super) async fn nothing_is_resent(run: &mut Run) -> Step {
    let mut client = run.client().await?;
    client.subscribe(Endpoint, &["a"]).await?;
    client.take(Endpoint, "a=r1").await?;
    client.subscribe(Route, &["a", "b"]).await?;
    client.take(Route, "a=r1 b=r1").await?;
    run.world.set(Route, "a", 2).await?;
    let pushed = client.next(Route).await?;
    client.nack(&pushed).await?;
    client.quiet(Route).await?;
    // Another type goes on, and the rejected one is not sent along.
    run.world.set(Endpoint, "a", 2).await?;
    client.take(Endpoint, "a=r2").await?;
    client.quiet(Route).await?;
    // Another resource of the type changes: that one goes on too.
    run.world.set(Route, "b", 2).await?;
    let other = client.next(Route).await?;
    if !other.held().contains("b=r2") {
        return fail(format!("expected route b=r2, heard {}", other.short()));
    }
    client.ack(&other).await?;
    run.world.set(Route, "a", 3).await?;
    let repair = client.next(Route).await?;
    if !repair.held().contains("a=r3") {
        return fail(format!("expected route a=r3, heard {}", repair.short()));
    }
    client.ack(&repair).await?;
    client.quiet(Route).await
}

pub(super) async fn nack_with_a_change(run: &mut Run) -> Step {
    let mut client = run.client().await?;
    client.subscribe(Route, &["a"]).await?;
    let first = client.expect(Route, "a=r1").await?;
    client.nack_and_subscribe(&first, &["b"]).await?;
    let answer = client.next(Route).await?;
    if !answer.held().contains("b=r1") {
        return fail(format!("expected route b, heard {}", answer.short()));
    }
    client.ack(&answer).await?;
    client.quiet(Route).await?;
    let nacked = run.world.count("nacked", Route).await?;
    if nacked != 1 {
        return fail(format!("the server counts {nacked} NACKs"));
    }
    run.world.edit(vec![Put::new(Route, "a", 2), Put::new(Route, "b", 2)], &[]).await?;
    client.take(Route, "a=r2 b=r2").await?;
    Ok(())
}
