//! What `actl` costs on a terminal while requests come: a server that only tells of them, the real program on a terminal, and the
//! processor time that the kernel counted for it.
//!
//! ```text
//! cargo run --release --example actl-load [-- RATE [SECONDS]]
//! ```

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use agent_creds::control::v1::control_server::{Control, ControlServer};
use agent_creds::control::v1::projects_server::{Projects, ProjectsServer};
use agent_creds::control::v1::*;
use anyhow::{Context, ensure};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request as Call, Response, Status};

type Stream<T> = ReceiverStream<Result<T, Status>>;

struct Server {
    /// Events a second.
    rate: u32,
}

#[tonic::async_trait]
impl Control for Server {
    type LaunchStream = Stream<LaunchEvent>;
    type WatchStream = Stream<Event>;

    async fn get_status(&self, _: Call<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(GetStatusResponse { version: "0".into(), ..Default::default() }))
    }

    async fn launch(&self, _: Call<LaunchRequest>) -> Result<Response<Self::LaunchStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get_environment(
        &self,
        _: Call<GetEnvironmentRequest>,
    ) -> Result<Response<GetEnvironmentResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn stop(&self, _: Call<StopRequest>) -> Result<Response<StopResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn accept(&self, _: Call<AcceptRequest>) -> Result<Response<AcceptResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn list(&self, _: Call<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let sandbox = |number| Sandbox { name: format!("sandbox-{number}"), ..Default::default() };
        Ok(Response::new(ListResponse { sandboxes: (0..10).map(sandbox).collect() }))
    }

    async fn watch(&self, _: Call<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (sender, events) = mpsc::channel(1024);
        let rate = self.rate;
        tokio::spawn(async move {
            // As requests come: one after the other, not in heaps.
            let mut ticks = interval(Duration::from_millis(1));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let (begun, mut sent) = (Instant::now(), 0_u64);
            loop {
                ticks.tick().await;
                let due = u64::from(rate) * u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX) / 1000;
                while sent < due {
                    if sender.send(Ok(request(sent))).await.is_err() {
                        return;
                    }
                    sent += 1;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(events)))
    }
}

#[tonic::async_trait]
impl Projects for Server {
    async fn list_projects(&self, _: Call<ListProjectsRequest>) -> Result<Response<ListProjectsResponse>, Status> {
        Ok(Response::new(ListProjectsResponse::default()))
    }
}

fn request(number: u64) -> Event {
    let allowed = !number.is_multiple_of(10);
    let request = Request {
        host: "api.stripe.com".into(),
        method: "GET".into(),
        path: format!("/v1/customers/cus_{number:08}"),
        allowed,
        credential: allowed,
        reason: if allowed { String::new() } else { "Unauthorized: path not allowed".into() },
        token: "0123456789abcdef0123456789abcdef".into(),
        ..Default::default()
    };
    let time_ms = 1_800_000_000_000 + i64::try_from(number).unwrap_or_default();
    Event { time_ms, sandbox: format!("sandbox-{}", number % 10), kind: Some(event::Kind::Request(request)) }
}

/// Processor time of a process, in clock ticks (100 a second).
fn ticks(pid: u32) -> anyhow::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("actl has ended")?;
    // Behind the name, which may have blanks.
    let rest = stat.rsplit_once(')').context("no stat of a process")?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

fn child_of(pid: u32, name: &str) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
        let is_it = fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|comm| comm.trim() == name);
        if is_it {
            return Some(child);
        }
        if let Some(found) = child_of(child, name) {
            return Some(found);
        }
    }
    None
}

async fn measure(dir: &Path, program: &Path, rate: u32, seconds: u64) -> anyhow::Result<f64> {
    let run = dir.join(format!("run{rate}"));
    fs::create_dir(&run)?;
    let listener = UnixListenerStream::new(UnixListener::bind(run.join("control.sock"))?);
    let services = tonic::transport::Server::builder()
        .add_service(ControlServer::new(Server { rate }))
        .add_service(ProjectsServer::new(Server { rate }));
    let serving = tokio::spawn(services.serve_with_incoming(listener));
    // `script` of util-linux gives it a terminal.
    let line = format!(
        "stty rows 50 cols 160; exec {} --state-dir {} --runtime-dir {}",
        program.display(),
        dir.join("state").display(),
        run.display()
    );
    let mut script = Command::new("script")
        .args(["-qfc", &line, "/dev/null"])
        .env("TERM", "xterm")
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("`script` of util-linux is needed")?;
    let mut keys = script.stdin.take().context("no keys")?;
    let outcome = async {
        sleep(Duration::from_secs(2)).await;
        keys.write_all(b"2")?;
        sleep(Duration::from_secs(1)).await;
        let pid = child_of(script.id(), "actl").context("actl does not run")?;
        let before = ticks(pid)?;
        sleep(Duration::from_secs(seconds)).await;
        let used = ticks(pid)? - before;
        keys.write_all(b"q")?;
        anyhow::Ok(u32::try_from(used).map(f64::from)? / f64::from(u32::try_from(seconds)?))
    }
    .await;
    if outcome.is_err() {
        let _ = script.kill();
    }
    script.wait()?;
    serving.abort();
    outcome
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let rate: u32 = args.next().map_or(Ok(1000), |rate| rate.parse()).context("RATE is a number")?;
    let seconds: u64 = args.next().map_or(Ok(10), |seconds| seconds.parse()).context("SECONDS is a number")?;
    ensure!(seconds > 0, "SECONDS is at least 1");
    let own = std::env::current_exe()?;
    // Beside this program's folder, as cargo builds it.
    let program = own.ancestors().nth(2).context("no folder")?.join("actl");
    ensure!(program.is_file(), "{} is missing: `cargo build --bin actl` with the same profile", program.display());
    let dir = tempfile::tempdir()?;
    let mut out = std::io::stdout();
    for rate in [0, rate] {
        let percent = measure(dir.path(), &program, rate, seconds).await?;
        writeln!(out, "{rate:>6} requests/s: {percent:.1} % of a core")?;
    }
    Ok(())
}
