//! `adev console` on a terminal, `adev run` in a pipe, and what `adev stop` leaves: nothing.

use std::fs;
use std::io::{Read, Write};
use std::process::Stdio;
use std::thread;
use std::time::Instant;

use super::world::{PATIENCE, World, eventually};
use crate::support::pty::Terminal;

/// What bash says when it reads keys itself: what is typed before may be lost to the change of hands.
const PROMPT: &str = "\x1b[?2004h";
const TOKEN: &str = "STRIPE_API_KEY = { token = { hosts = [\"api.stripe.com\"] } }";

/// Opens a console, and waits for its shell to take commands.
fn console(world: &World) -> Terminal {
    let mut terminal = world.console("shop");
    terminal.shows("these hosts can be reached");
    terminal.shows("api.stripe.com");
    terminal.shows("STRIPE_API_KEY");
    terminal.shows(PROMPT);
    terminal.keys("echo re''ady $(pwd)\r");
    terminal.shows("ready /workspace\r\n");
    terminal.shows(PROMPT);
    terminal
}

/// Types until the terminal shows the text: a notice waits for a line of its own.
fn types_until(terminal: &mut Terminal, text: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !terminal.screen().contains(text) {
        assert!(Instant::now() < deadline, "waited for {text:?}:\n{}", terminal.screen());
        terminal.keys("echo a''a\r");
        terminal.shows("aa\r\n");
        terminal.shows(PROMPT);
    }
}

fn consoles(runtime: &'static str) {
    let world = World::new(runtime);
    let name = world.name("shop");
    world.project("shop", "", TOKEN, &["api.stripe.com"]);
    // The server may take its time; the consoles then find it.
    world.says("shop", "true");

    let mut first = console(&world);
    assert!(first.screen().contains(&format!("Sandbox {name}: these hosts can be reached")), "{}", first.screen());
    first.resize(41, 133);
    first.keys("until [ \"$(stty size)\" = '41 133' ]; do sleep 0.1; done; echo re''sized\r");
    first.shows("resized\r\n");
    first.shows(PROMPT);
    // Ctrl-C is the program's, not ours.
    first.keys("echo me''ow; cat\r");
    first.shows("meow\r\n");
    first.keys("x\r");
    first.shows("x\r\nx\r\n");
    first.keys("\x03");
    first.shows("^C");
    first.shows(PROMPT);
    first.keys("echo st''atus $?\r");
    first.shows("status 130\r\n");
    first.shows(PROMPT);

    // Another one on the same sandbox, and an edit that both are told of.
    let mut second = console(&world);
    world.project("shop", "", TOKEN, &["api.stripe.com", "other.example.com"]);
    let notice = "[agent-creds] agent-creds.toml applied: other.example.com can be reached now";
    types_until(&mut first, notice);
    types_until(&mut second, notice);
    world.write_config("shop", "[sandbox\n");
    types_until(&mut second, "[agent-creds] agent-creds.toml is broken, and its last good version stays in force");

    // Left by keys: what runs goes on, and the way to end it is shown.
    first.keys("sh -c 'touch be''gun; exec sleep 4321'\r");
    eventually("it has begun", || world.path("shop/begun").exists());
    first.keys("\x10\x11");
    first.shows("left; what runs goes on in the sandbox");
    first.shows(&format!("`adev stop {name}` ends it."));
    assert_eq!(first.ended().code(), Some(0));
    assert!(first.is_cooked(), "the terminal is as it was");
    assert!(world.exec("shop", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").contains("sleep 4321"));

    // Left by the shell's end: its exit code is ours.
    second.keys("exit 7\r");
    second.shows(&format!("the sandbox {name} keeps running; `adev stop {name}` ends it."));
    assert_eq!(second.ended().code(), Some(7));
    assert!(second.is_cooked());

    // The sandbox ends under a console, which the broken file did not keep out.
    let mut third = console(&world);
    assert!(world.adev("shop", &["stop", &name]).status.success());
    assert_eq!(third.ended().code(), Some(137));
    assert!(third.is_cooked());
    assert!(third.screen().contains(&format!("the sandbox {name} was stopped.")), "{}", third.screen());
}

#[test]
fn consoles_with_runc() {
    consoles("runc");
}

#[test]
fn consoles_with_gvisor() {
    consoles("runsc");
}

fn commands(runtime: &'static str) {
    let world = World::new(runtime);
    world.project("shop", "", "PLAIN = \"a b\"\n", &["api.stripe.com"]);
    for (script, code) in [("exit 0", 0), ("exit 42", 42), ("kill -9 $$", 137), ("exec /nowhere", 127)] {
        assert_eq!(world.inside("shop", script).status.code(), Some(code), "{script}");
    }
    for (program, code) in [("/nowhere", 127), ("/etc/passwd", 126)] {
        let output = world.adev("shop", &["run", "--", program]);
        assert_eq!((output.status.code(), output.stdout.as_str()), (Some(code), ""), "{output:?}");
    }
    let said = world.inside("shop", "echo out; echo err >&2; [ -t 0 ] || [ -t 1 ] || echo \"$PLAIN $(pwd)\"");
    assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("out\na b /workspace\n", "err\n"));

    // Byte for byte, both ways at once.
    let sent: Vec<u8> = (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut cat = world.adev_command("shop", &["run", "--", "cat"]);
    let mut cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, to_send) = (cat.stdin.take().unwrap(), sent.clone());
    let writer = thread::spawn(move || stdin.write_all(&to_send));
    let mut received = Vec::new();
    cat.stdout.take().unwrap().read_to_end(&mut received).unwrap();
    writer.join().unwrap().unwrap();
    assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
    assert!(cat.wait().unwrap().success());

    // It ends with the sandbox.
    let mut command = world.adev_command("shop", &["run", "--", "sh", "-c", "touch be''gun; sleep 4321"]);
    let mut command = command.spawn().unwrap();
    eventually("it has begun", || world.path("shop/begun").exists());
    assert!(world.adev("shop", &["stop"]).status.success());
    eventually("it ends with the sandbox", || command.try_wait().unwrap().is_some());
    assert_eq!(command.wait().unwrap().code(), Some(137));
}

#[test]
fn commands_with_runc() {
    commands("runc");
}

#[test]
fn commands_with_gvisor() {
    commands("runsc");
}

#[test]
fn nothing_is_left_of_what_was_stopped() {
    let world = World::new("runc");
    for project in ["shop", "brief", "third"] {
        world.project(project, "", TOKEN, &["api.stripe.com"]);
    }
    for project in ["shop", "third"] {
        world.says(project, "true");
        assert!(!world.rules(project).is_empty(), "what is looked for later is found");
    }
    // For one command alone. Its end does not wait for the others.
    let brief = world.adev("brief", &["run", "--rm", "--", "sh", "-c", "exit 3"]);
    assert_eq!(brief.status.code(), Some(3), "{brief:?}");
    assert_eq!(world.rules("brief"), [""; 0]);
    let made = world.made();
    assert!(!made.contains(&world.container("brief")) && made.contains(&world.container("shop")), "{made:?}");
    assert!(!world.path("run/sandboxes").join(world.name("brief")).exists());
    // What --rm did not launch it does not stop.
    assert!(world.adev("shop", &["run", "--rm", "--", "true"]).status.success());
    assert_eq!(world.listed("shop")["state"], "running");

    let stopped = world.adev("shop", &["stop", "--all"]);
    assert!(stopped.status.success(), "{stopped:?}");
    for project in ["shop", "third"] {
        assert!(stopped.stdout.contains(&format!("stopped {}\n", world.name(project))), "{stopped:?}");
        assert_eq!(world.rules(project), [""; 0]);
    }
    eventually("no container and no network is left, nor the guard", || world.made().is_empty());
    let inside = fs::read_dir(world.path("run/sandboxes")).map_or(0, Iterator::count);
    assert_eq!(inside, 0, "folders of sandboxes are left");
    let again = world.adev("shop", &["stop", "--all"]);
    assert_eq!((again.status.code(), again.stdout.as_str()), (Some(0), "there is no sandbox to stop\n"));
}
