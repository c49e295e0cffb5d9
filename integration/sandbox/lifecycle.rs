//! The whole life of sandboxes: many at once, over and over, and whatever dies or disappears meanwhile. Nothing is left of them,
//! and nothing half-made of those that cannot be.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::yard::{DEADLINE, Yard, container, docker, host, kill9, run_within, wait_until};

const UPSTREAM: &str = "[upstream.\"api.example.com\"]\naddress = \"127.0.0.1:9\"\n";

fn projects(yard: &Yard, count: usize) -> Vec<String> {
    (0..count).map(|number| yard.project(&format!("n{number}"), "runc", UPSTREAM)).collect()
}

/// What the server has open.
fn open_files(yard: &Yard) -> Vec<String> {
    let folder = format!("/proc/{}/fd", yard.server_pid());
    let files = fs::read_dir(folder).unwrap().flatten();
    files.filter_map(|file| Some(fs::read_link(file.path()).ok()?.display().to_string())).collect()
}

#[test]
fn ten_at_once_start_and_stop_in_any_order() {
    let yard = Yard::new();
    let projects = projects(&yard, 10);
    let begun = Instant::now();
    // The server does not run either: one of them starts it.
    thread::scope(|scope| {
        for project in &projects {
            scope.spawn(|| yard.launch(project));
        }
    });
    eprintln!("ten launched in {:?}", begun.elapsed());
    assert_eq!(yard.containers("sandbox").len(), 10);
    assert_eq!(yard.containers("guard").len(), 1);
    let mut addresses: Vec<_> = projects.iter().map(|project| yard.addresses(project)).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 10);
    for project in &projects {
        let rules = host(&["nft", "list", "table", "inet", &yard.key(project).table()]);
        assert!(rules.contains(&yard.key(project).bridge()), "{project}: {rules}");
    }
    // Some one after the other, the others at once, among them one that starts again.
    for at in [7, 0, 3] {
        yard.stop(&projects[at]);
        assert_eq!(yard.listed(&projects[at])["state"], "stopped");
    }
    thread::scope(|scope| {
        scope.spawn(|| yard.launch(&projects[7]));
        for at in [9, 1, 8, 2] {
            scope.spawn({
                let (yard, project) = (&yard, &projects[at]);
                move || yard.stop(project)
            });
        }
    });
    // Those that were not meant still work.
    for at in [4, 5, 6, 7] {
        let said = yard.run(&projects[at], "getent hosts api.example.com");
        assert!(said.status.success(), "{said:?}");
    }
    let stopped = yard.adev(&["stop", "--all"]);
    assert!(stopped.status.success(), "{stopped:?}");
    yard.wait_until_nothing_remains("after stop --all");
}

#[test]
fn fifty_starts_and_stops_leave_nothing() {
    // On a machine that does much else, as many as it does in this time.
    const CYCLES: usize = 50;
    const TIME: Duration = Duration::from_secs(75);
    let yard = Yard::new();
    let projects = projects(&yard, 5);
    // Warm: the server, its connections, its threads.
    yard.launch(&projects[0]);
    yard.stop(&projects[0]);
    yard.wait_until_nothing_remains("after the first");
    let before = open_files(&yard);
    let done = AtomicUsize::new(0);
    let begun = Instant::now();
    thread::scope(|scope| {
        for project in &projects {
            scope.spawn(|| {
                for cycle in 0..CYCLES / projects.len() {
                    if cycle >= 3 && begun.elapsed() > TIME {
                        return;
                    }
                    yard.launch(project);
                    yard.stop(project);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let done = done.into_inner();
    eprintln!("{done} of {CYCLES} starts and stops of {} sandboxes in {:?}", projects.len(), begun.elapsed());
    yard.wait_until_nothing_remains("after all");
    // Connections of Docker's and of adev's close by and by.
    wait_until("as few files are open as before", DEADLINE, || {
        let now = open_files(&yard);
        if now.len() <= before.len() + 2 { Ok(()) } else { Err(format!("{before:#?}, now {now:#?}")) }
    });
    assert_eq!(yard.listed(&projects[0])["state"], "stopped");
}

#[test]
fn adev_may_be_killed_at_any_point() {
    let yard = Yard::new();
    let keeper = yard.project("keeper", "runc", UPSTREAM);
    yard.launch(&keeper);
    for delay in [20, 100, 250, 500, 900] {
        let project = yard.project(&format!("after{delay}"), "runc", UPSTREAM);
        let mut command = yard.adev_command(&["run", "--config", &project, "--", "sleep", "1000"]);
        let mut adev = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(delay));
        adev.kill().unwrap();
        adev.wait().unwrap();
        // The server goes on with what it was asked, or has heard nothing of it: either way the next adev finds it in order.
        let said = yard.run(&project, "echo here");
        assert_eq!(said.stdout, "here\n", "after {delay} ms: {said:?}");
        yard.stop(&project);
    }
    assert_eq!(yard.run(&keeper, "echo here").stdout, "here\n");
    yard.stop(&keeper);
    yard.wait_until_nothing_remains("after killed clients");
}

#[test]
fn the_server_may_be_killed_during_a_launch() {
    let yard = Yard::new();
    let keeper = yard.project("keeper", "runc", UPSTREAM);
    yard.launch(&keeper);
    let kept = docker(&["inspect", "-f", "{{.Id}} {{.State.Pid}}", &container(&keeper)]);
    for delay in [30, 120, 250, 400, 700] {
        let project = yard.project(&format!("after{delay}"), "runc", UPSTREAM);
        let mut command = yard.adev_command(&["run", "--config", &project, "--", "true"]);
        let mut adev = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(delay));
        kill9(yard.server_pid());
        adev.wait().unwrap();
        // The next adev: what ran is taken up, what was half made is removed.
        let said = yard.adev(&["list"]);
        assert!(said.status.success(), "after {delay} ms: {said:?}\n{}", yard.log());
        wait_until("what was half made is gone, or runs", DEADLINE, || {
            let name = format!("name=^{}$", container(&project));
            let state = docker(&["ps", "-a", "--filter", &name, "--format", "{{.State}}"]);
            let networks = yard.networks().len();
            match (state.trim(), networks) {
                ("", 1) | ("running", 2) => Ok(()),
                other => Err(format!("{other:?}\n{}", yard.log())),
            }
        });
        let said = yard.run(&project, "getent hosts api.example.com");
        assert!(said.status.success(), "after {delay} ms: {said:?}\n{}", yard.log());
        yard.stop(&project);
        assert_eq!(
            docker(&["inspect", "-f", "{{.Id}} {{.State.Pid}}", &container(&keeper)]),
            kept,
            "it was not touched"
        );
    }
    assert!(yard.run(&keeper, "getent hosts api.example.com").status.success());
    yard.stop(&keeper);
    yard.wait_until_nothing_remains("after killed servers");
}

#[test]
fn what_dies_while_a_sandbox_runs_comes_back() {
    let yard = Yard::new();
    let project = yard.project("runs", "runc", UPSTREAM);
    yard.launch(&project);
    let id = || docker(&["inspect", "-f", "{{.Id}} {{.State.Pid}}", &container(&project)]);
    let first = id();
    // Nobody listens at the upstream: Envoy itself answers.
    let answered = |when: &str| {
        wait_until(&format!("Envoy answers {when}"), DEADLINE, || {
            let script = "curl -sS -o /dev/null -w '%{http_code}' --max-time 5 https://api.example.com/ 2>&1";
            let said = run_within(
                Command::new("docker").args(["exec", "-e", "SSL_CERT_FILE=/opt/agent-creds/ca.pem"]).args([
                    &container(&project),
                    "sh",
                    "-c",
                    script,
                ]),
                DEADLINE,
            );
            let code = said.stdout.trim().to_owned();
            if ["401", "403", "502", "503"].contains(&code.as_str()) { Ok(()) } else { Err(format!("{said:?}")) }
        })
    };
    answered("at first");
    let envoy = yard.envoy_pid().expect("an Envoy");
    kill9(envoy);
    wait_until("another Envoy", DEADLINE, || match yard.envoy_pid() {
        Some(pid) if pid != envoy => Ok(()),
        other => Err(format!("{other:?}")),
    });
    answered("after Envoy was killed");

    let server = yard.server_pid();
    kill9(server);
    // Without a server names are not found: nothing opens.
    let looked_up = |name: &str| {
        run_within(
            Command::new("docker").args(["exec", &container(&project), "timeout", "3", "getent", "hosts", name]),
            DEADLINE,
        )
    };
    assert!(!looked_up("api.example.com").status.success());
    let said = yard.run(&project, "getent hosts api.example.com");
    assert!(said.status.success(), "{said:?}\n{}", yard.log());
    assert_ne!(yard.server_pid(), server);
    assert_eq!(id(), first, "the very same container, which never stopped");
    answered("after the server was killed");
    yard.stop(&project);
    yard.wait_until_nothing_remains("after all that");
}

#[test]
fn what_is_removed_behind_our_back_is_cleaned_up() {
    let yard = Yard::new();
    let project = yard.project("gone", "runc", UPSTREAM);
    for what in ["the container removed", "the container killed and its network removed", "the guard removed, too"] {
        yard.launch(&project);
        match what {
            "the container removed" => drop(docker(&["rm", "-f", &container(&project)])),
            "the container killed and its network removed" => {
                docker(&["kill", &container(&project)]);
                // Whoever is faster: it is gone.
                let _ = run_within(Command::new("docker").args(["rm", "-f", &container(&project)]), DEADLINE);
                let _ = run_within(Command::new("docker").args(["network", "rm", &container(&project)]), DEADLINE);
            }
            _ => {
                let guard = yard.containers("guard");
                docker(&["rm", "-f", &guard[0], &container(&project)]);
            }
        }
        yard.wait_until_nothing_remains(what);
        wait_until("it is told as stopped", DEADLINE, || {
            let listed = yard.listed(&project);
            if listed["state"] == "stopped" { Ok(()) } else { Err(format!("{what}: {listed}")) }
        });
    }
    assert_eq!(yard.run(&project, "echo here").stdout, "here\n", "and starts again");
}

#[test]
fn what_a_dead_server_left_is_removed_by_the_next_one() {
    let yard = Yard::new();
    let (ran, made) = (yard.project("ran", "runc", UPSTREAM), yard.project("made", "runc", UPSTREAM));
    yard.launch(&ran);
    let labels =
        docker(&["inspect", "-f", "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}}\n{{end}}", &container(&ran)]);
    kill9(yard.server_pid());
    // It ended while nobody looked: its network, its rules and the guard are still there.
    docker(&["rm", "-f", &container(&ran)]);
    assert!(!yard.in_the_kernel().is_empty());
    // Docker may leave a bridge of a request that was cut short.
    let left = yard.key("nobody").bridge();
    host(&["ip", "link", "add", &left, "type", "bridge"]);
    // And one was created and never started, as by a server that was killed in the middle of a launch.
    let labels: Vec<String> =
        labels.lines().filter(|line| !line.is_empty()).map(|line| line.replace(&ran, &made)).collect();
    let labels: Vec<&str> = labels.iter().flat_map(|label| ["--label", label]).collect();
    docker(&[&["network", "create"], &labels[..], &[&container(&made)]].concat());
    let create = ["create", "--name", &container(&made), "--network", &container(&made)];
    docker(&[&create, &labels[..], &["agent-creds-sandbox", "true"]].concat());
    let foreign = format!("foreign-{made}");
    docker(&["create", "--name", &foreign, "agent-creds-sandbox", "true"]);

    let said = yard.adev(&["list"]);
    let others = docker(&["ps", "-aq", "--filter", &format!("name=^{foreign}$")]);
    docker(&["rm", "-f", &foreign]);
    assert!(said.status.success(), "{said:?}");
    assert!(!others.is_empty(), "what is not ours is left");
    yard.wait_until_nothing_remains("of the dead server");

    // Docker does not remove a bridge that was there before the network.
    host(&["ip", "link", "add", &yard.key(&made).bridge(), "type", "bridge"]);
    yard.launch(&made);
    yard.stop(&made);
    yard.wait_until_nothing_remains("after a bridge that was there already");
}

#[test]
fn what_cannot_be_launched_says_why_and_leaves_nothing() {
    let yard = Yard::new();
    let refused = |words: &[&str], says: &[&str]| {
        let output = yard.adev(words);
        assert_eq!(output.status.code(), Some(125), "{words:?}: {output:?}");
        for text in says {
            assert!(output.stderr.contains(text), "{words:?}: {text}: {}", output.stderr);
        }
        assert!(yard.remains().is_empty(), "{words:?}: {:#?}", yard.remains());
    };
    let run = |project: &str| ["run", "--config", project, "--", "true"].map(str::to_owned);
    let said = |words: &[String; 5], says: &[&str]| refused(&words.each_ref().map(String::as_str), says);

    // No Docker.
    let project = yard.project("nodocker", "runc", UPSTREAM);
    let mut command = yard.adev_command(&["run", "--config", &project, "--", "true"]);
    let output = run_within(command.env("DOCKER_HOST", "unix:///nonexistent/docker.sock"), DEADLINE);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(output.stderr.contains("there is no Docker at unix:///nonexistent/docker.sock"), "{}", output.stderr);
    // An image that is not there.
    let image = yard.project("image", "runc", &format!("image = \"agent-creds-no-such-image\"\n{UPSTREAM}"));
    said(&run(&image), &["agent-creds-no-such-image"]);
    // A broken file.
    let broken = yard.project("broken", "runc", "memory = [\n");
    said(&run(&broken), &["agent-creds.toml:", "error: "]);
    // Its name is somebody else's.
    let taken = yard.project("taken", "runc", UPSTREAM);
    docker(&["create", "--name", &container(&taken), "agent-creds-sandbox", "true"]);
    let output = yard.adev(&["run", "--config", &taken, "--", "true"]);
    let others = docker(&["ps", "-aq", "--filter", &format!("name=^{}$", container(&taken))]);
    docker(&["rm", "-f", &container(&taken)]);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(output.stderr.contains(&container(&taken)), "{}", output.stderr);
    assert!(!others.is_empty(), "the container that is not ours is left");
    assert_eq!(yard.remains(), Vec::<String>::new());
    // A network of this name.
    docker(&["network", "create", &container(&taken)]);
    let output = yard.adev(&["run", "--config", &taken, "--", "true"]);
    docker(&["network", "rm", &container(&taken)]);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(output.stderr.contains(&container(&taken)), "{}", output.stderr);
    assert_eq!(yard.remains(), Vec::<String>::new());
    // A file in the folder of the server's own keys; a project that holds it.
    let text = format!("[sandbox]\nname = \"{taken}\"\nruntime = \"runc\"\n{UPSTREAM}");
    for folder in ["state", ""] {
        fs::write(yard.path(folder).join("agent-creds.toml"), &text).unwrap();
        said(&run(yard.path(folder).to_str().unwrap()), &["cannot be a workspace"]);
    }
    // And what was refused for a while is not refused for ever.
    yard.launch(&taken);
}
