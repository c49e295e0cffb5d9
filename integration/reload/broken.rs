//! Broken edits, and the many ways in which programs save.

use std::time::Duration;

use http::StatusCode;

use super::{A, B, labelled, wait_refused, wait_served_by};
use crate::support::load::{Load, LoadConfig, Target};
use crate::support::probe::{refused, served_by};
use crate::support::server::{Server, WorldConfig, upstream_section};

#[tokio::test]
async fn a_broken_edit_says_where_and_the_last_good_one_serves_on() {
    let upstream = labelled("one", &[A, B]).await;
    let good = upstream_section(A, &upstream, "methods = [\"GET\"]");
    let more = good.clone() + &upstream_section(B, &upstream, "");
    let server = Server::start(WorldConfig::new(&good)).await;
    let client = server.client();
    let load = Load::start(&client, LoadConfig::new(vec![Target::new(&format!("https://{A}/echo"))])).await;
    let head = server.config_text("");
    let section = format!("[upstream.\"{A}\"]\n");
    let elsewhere = upstream_section(B, &upstream, "");
    // The first three lines are `[gateway]`, `listen = …` and an empty one.
    let cases = [
        ("an unknown key", format!("{head}{section}metods = [\"GET\"]\n"), 5, 1, "metods"),
        ("a wrong type", format!("{head}{section}methods = \"GET\"\n"), 5, 11, "methods"),
        ("not TOML", format!("{head}{section}methods = [\"GET\"\n\n[upstream]\n"), 7, 1, ""),
        ("a bad host", format!("{head}{elsewhere}[upstream.\"under score.example\"]\n"), 9, 11, "under score"),
        ("a CA that is not there", format!("{head}{section}ca = \"missing.pem\"\n"), 5, 6, "missing.pem"),
        ("an empty file", String::new(), 1, 1, "empty"),
        ("no address to listen on", "[gateway]\nlisten = \"nowhere\"\n".to_owned(), 2, 10, "nowhere"),
    ];
    let file = server.config_file().display().to_string();
    for (what, text, line, column, message) in cases {
        let generation = server.generation().await;
        let before = server.metric("agent_creds_config_reloads_total", &["result=\"broken\""]).await;
        let pushes = server.metric("agent_creds_xds_pushes_total", &[]).await;
        let changed = server.metric("agent_creds_config_last_reload_timestamp_seconds", &[]).await;
        let ready = server.apply_broken(&text).await;
        assert!(ready.is_ready(), "{what}: the last good one serves: {ready:?}");
        assert_eq!(ready.generation(), generation, "{what}");
        let problem = &ready.problems()[0];
        let at = (problem["file"].as_str(), problem["line"].as_u64(), problem["column"].as_u64());
        assert_eq!(at, (Some(file.as_str()), Some(line), Some(column)), "{what}: {problem}");
        assert!(problem["message"].as_str().unwrap().contains(message), "{what}: {problem}");
        assert!(server.log().contains(&format!("{file}:{line}:{column}: ")), "{what}: the log names the place");
        assert_eq!(server.metric("agent_creds_config_ok", &[]).await, 0.0, "{what}");
        assert_eq!(server.metric("agent_creds_config_reloads_total", &["result=\"broken\""]).await, before + 1.0);
        assert!(server.metric("agent_creds_config_last_reload_timestamp_seconds", &[]).await > changed, "{what}");

        assert_eq!(served_by(&client, A).await, Ok("one".to_owned()), "{what}");
        let post = client.post(&format!("https://{A}/echo"), "").send().await.unwrap();
        assert_eq!(post.status, StatusCode::FORBIDDEN, "{what}: the last good limits hold");
        assert_eq!(refused(&client, B).await, Ok(()), "{what}: nothing of the broken file is served");
        assert_eq!(server.metric("agent_creds_xds_pushes_total", &[]).await, pushes, "{what}");

        // Repaired, by another good version or by the old one.
        let repaired = if line % 2 == 0 { &more } else { &good };
        server.write_config(&server.config_text(repaired));
        server.wait_for("the file is repaired", |ready| ready.is_ready() && ready.config_ok()).await;
        assert_eq!(server.metric("agent_creds_config_ok", &[]).await, 1.0, "{what}");
        if repaired == &more {
            wait_served_by(&client, B, "one").await;
            server.apply(&good).await;
        }
        wait_refused(&client, B).await;
    }
    load.stop().await.assert_clean();
}

/// However a file is saved, it is read once it is whole: never half of it, never an empty one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_save_is_followed_and_no_half_file_is_read() {
    let upstream = labelled("one", &[A, B]).await;
    let only_a = upstream_section(A, &upstream, "");
    let both = only_a.clone() + &upstream_section(B, &upstream, "");
    let server = Server::start(WorldConfig::new(&only_a)).await;
    let client = server.client();
    let load = Load::start(&client, LoadConfig::new(vec![Target::new(&format!("https://{A}/echo"))])).await;
    let pause = Duration::from_millis(20);
    type Save<'a> = &'a dyn Fn(&str, u32);
    let ways: [(&str, Save<'_>); 6] = [
        ("rename", &|text, _| server.write_config(text)),
        ("truncate, then write at once", &|text, _| std::fs::write(server.config_file(), text).unwrap()),
        ("truncate, then write slowly", &|text, _| server.write_config_truncating(text, pause)),
        ("vim", &|text, _| server.write_config_like_vim(text)),
        // Last: from here on the file is a link.
        ("symlink swap", &|text, version| server.write_config_like_kubernetes(text, version)),
        ("another symlink swap", &|text, version| server.write_config_like_kubernetes(text, version + 100)),
    ];
    for (number, (what, save)) in (0..).zip(ways) {
        for (step, (upstreams, served)) in (0..).zip([(&both, true), (&only_a, false)]) {
            eprintln!("{what}, {}", if served { "adding" } else { "removing" });
            let generation = server.generation().await;
            let text = server.config_text(upstreams);
            tokio::task::block_in_place(|| save(&text, 2 * number + step));
            server.wait_generation(generation + 1).await;
            match served {
                true => wait_served_by(&client, B, "one").await,
                false => wait_refused(&client, B).await,
            }
            let ready = server.ready().await.unwrap();
            assert_eq!(ready.generation(), generation + 1, "{what}: one edit is one reload");
            assert!(ready.config_ok(), "{what}: {ready:?}");
        }
    }
    let broken = server.metric("agent_creds_config_reloads_total", &["result=\"broken\""]).await;
    assert_eq!(broken, 0.0, "half a file was read:\n{}", server.log());
    load.stop().await.assert_clean();
}
