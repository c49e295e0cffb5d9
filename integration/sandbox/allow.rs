//! What a sandbox was refused, allowed from the screen of `actl`: into the file that is mounted, which stays mounted.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::world::{World, eventually};
use crate::support::pty::Terminal;
use crate::support::server::upstream_section;

const ACTL: &str = env!("CARGO_BIN_EXE_actl");

fn status(world: &World, method: &str, host: &str) -> String {
    let what = format!("-X {method} https://{host}/v1");
    world.exec("shop", &format!("curl -s -o /dev/null --max-time 10 -w '%{{http_code}}' {what}"))
}

#[test]
fn what_was_refused_is_allowed_and_the_sandbox_stopped_from_the_screen_with_runc() {
    allows_and_stops("runc");
}

#[test]
fn what_was_refused_is_allowed_and_the_sandbox_stopped_from_the_screen_with_gvisor() {
    allows_and_stops("runsc");
}

fn allows_and_stops(runtime: &'static str) {
    let world = World::new(runtime);
    let (name, other) =
        (world.name("shop"), upstream_section("other.example.com", &world.upstream, "methods = [\"GET\"]\n"));
    world.project("shop", "", "", &["api.stripe.com"]);
    let text = format!(
        "# Mine.\n[sandbox] # and only mine\nname = \"{name}\"\nruntime = \"{runtime}\"\n\n{other}# The end.\n"
    );
    world.write_config("shop", &text);
    world.says("shop", "true");
    let (file, upstream) = (world.config_file("shop"), "[upstream.\"new.example.com\"]");
    let inode = file.metadata().unwrap().ino();
    assert_eq!(status(&world, "PUT", "other.example.com"), "403");
    assert_eq!(status(&world, "GET", "new.example.com"), "000");

    let mut command = world.command(ACTL, "shop");
    command.arg("--state-dir").arg(world.path("state")).arg("--runtime-dir").arg(world.path("run"));
    let mut terminal = Terminal::run(&command);
    terminal.resize(24, 100);
    terminal.until("the sandbox", |screen| screen.contains(&name) && screen.contains("● running"));
    terminal.keys("2r/PUT\r");
    terminal
        .until("the refusal alone", |screen| screen.contains("PUT other.example.com/v1") && !screen.contains("DNS"));
    terminal.keys("a");
    terminal.until("the edit", |screen| screen.contains("+ methods = [\"GET\", \"PUT\"]") && screen.contains("y/n"));
    terminal.keys("y");
    terminal.until("that it is allowed", |screen| screen.contains("is allowed now"));
    assert_eq!(status(&world, "PUT", "other.example.com"), "200");
    // Inside it is the same file, still mounted, and only read.
    assert!(world.exec("shop", "cat agent-creds.toml").contains("\"PUT\""));
    let written = world.inside("shop", "echo >>agent-creds.toml || { rm -f agent-creds.toml; mv agent-creds.toml x; }");
    assert!(!written.status.success(), "{written:?}");

    // A name that did not resolve.
    terminal.keys("\x1b");
    terminal.until("all refusals", |screen| screen.contains("DNS A new.example.com"));
    terminal.keys("/DNS A new\r");
    terminal.until("that alone", |screen| screen.contains("DNS A new") && !screen.contains("PUT other"));
    terminal.keys("a");
    terminal.until("the edit", |screen| screen.contains(&format!("+ {upstream}")) && screen.contains("y/n"));
    terminal.keys("y");
    terminal.until("that it is allowed", |screen| screen.contains("new.example.com is allowed now"));
    let resolves = || !world.exec("shop", "getent hosts new.example.com").is_empty();
    eventually("the name resolves", resolves);
    let now = fs::read_to_string(&file).unwrap();
    for kept in ["# Mine.\n[sandbox] # and only mine\n", "# The end.\n", upstream, "methods = [\"GET\", \"PUT\"]"] {
        assert!(now.contains(kept), "{kept:?} is not in\n{now}");
    }
    assert_eq!(file.metadata().unwrap().ino(), inode);

    terminal.keys("1x");
    terminal.until("the question", |screen| screen.contains("y/n: stop"));
    terminal.keys("y");
    terminal.until("that it is stopped", |screen| screen.contains("stopped") && screen.contains("○"));
    assert_eq!(world.listed("shop")["state"], "stopped");
    terminal.keys("q");
    assert_eq!(terminal.ended().code(), Some(0));
}
