//! A server that only answers, with what an agent would like to do to a terminal.

use std::sync::{Arc, Mutex};

use agent_creds::control::v1::control_server::{Control, ControlServer};
use agent_creds::control::v1::projects_server::{Projects, ProjectsServer};
use agent_creds::control::v1::*;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request as Call, Response, Status};

use super::ACTL;
use crate::support::pty::Terminal;

type Stream<T> = ReceiverStream<Result<T, Status>>;

/// Clears the screen, names the window, turns the direction of text, goes on in another line, takes two places.
const TRICKS: &str = "x\u{1b}[2J\u{1b}]0;owned\u{7}\u{202e}\r\n日本\u{9b}31m";

struct Answers(Mutex<Vec<Sandbox>>);

#[tonic::async_trait]
impl Control for Answers {
    type LaunchStream = Stream<LaunchEvent>;
    type WatchStream = Stream<Event>;

    async fn get_status(&self, _: Call<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(GetStatusResponse {
            version: "0".into(),
            problems: vec![TRICKS.into()],
            ..Default::default()
        }))
    }

    async fn launch(&self, _: Call<LaunchRequest>) -> Result<Response<Self::LaunchStream>, Status> {
        Err(Status::internal("nothing is launched here"))
    }

    async fn get_environment(
        &self,
        _: Call<GetEnvironmentRequest>,
    ) -> Result<Response<GetEnvironmentResponse>, Status> {
        Err(Status::internal("nothing runs here"))
    }

    async fn stop(&self, call: Call<StopRequest>) -> Result<Response<StopResponse>, Status> {
        let name = call.into_inner().name;
        self.0.lock().unwrap().retain(|sandbox| sandbox.name != name);
        Ok(Response::new(StopResponse { stopped: vec![name], problems: Vec::new() }))
    }

    async fn accept(&self, _: Call<AcceptRequest>) -> Result<Response<AcceptResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn list(&self, _: Call<ListRequest>) -> Result<Response<ListResponse>, Status> {
        Ok(Response::new(ListResponse { sandboxes: self.0.lock().unwrap().clone() }))
    }

    async fn watch(&self, _: Call<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (sender, events) = mpsc::channel(8);
        tokio::spawn(async move {
            let request = Request {
                host: TRICKS.into(),
                method: TRICKS.into(),
                path: TRICKS.into(),
                reason: TRICKS.into(),
                help: TRICKS.into(),
                ..Default::default()
            };
            let kind = Some(event::Kind::Request(request));
            let _ = sender.send(Ok(Event { sandbox: TRICKS.into(), kind, ..Default::default() })).await;
            sender.closed().await;
        });
        Ok(Response::new(ReceiverStream::new(events)))
    }
}

#[tonic::async_trait]
impl Projects for Answers {
    async fn list_projects(&self, _: Call<ListProjectsRequest>) -> Result<Response<ListProjectsResponse>, Status> {
        let project = Project { name: TRICKS.into(), gateway: true, config_path: TRICKS.into(), ..Default::default() };
        Ok(Response::new(ListProjectsResponse { generation: 1, projects: vec![project] }))
    }
}

#[test]
fn nothing_that_is_shown_drives_the_terminal_and_a_sandbox_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("run")).unwrap();
    let sandbox = |name: &str| Sandbox {
        name: name.into(),
        state: State::Running.into(),
        workspace: TRICKS.into(),
        detail: TRICKS.into(),
        upstreams: vec![TRICKS.into()],
        problems: vec![TRICKS.into()],
        ..Default::default()
    };
    let answers = Arc::new(Answers(Mutex::new(vec![sandbox("alpha"), sandbox(TRICKS)])));
    let server = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    server.block_on(async {
        let listener = UnixListenerStream::new(UnixListener::bind(dir.path().join("run/control.sock")).unwrap());
        let services = tonic::transport::Server::builder()
            .add_service(ControlServer::from_arc(Arc::clone(&answers)))
            .add_service(ProjectsServer::from_arc(Arc::clone(&answers)));
        tokio::spawn(services.serve_with_incoming(listener));
    });
    let mut command = std::process::Command::new(ACTL);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("TERM", "xterm");
    command.arg("--state-dir").arg(dir.path().join("state")).arg("--runtime-dir").arg(dir.path().join("run"));
    let mut terminal = Terminal::run(&command);
    terminal.until("the sandboxes", |screen| screen.contains("alpha") && screen.contains("● gateway"));
    for keys in ["\r", "q2", "\r", "q5", "\r", "q1"] {
        terminal.keys(keys);
        let view = keys.chars().last().filter(char::is_ascii_digit);
        terminal.until("the next view", |screen| match view {
            Some('2') => screen.contains("WHAT (following"),
            Some('5') => screen.contains("problem"),
            Some(_) => screen.contains("NAME"),
            None => screen.contains("details ─"),
        });
    }
    terminal.keys("x");
    terminal.until("the question", |screen| screen.contains("y/n: stop alpha"));
    terminal.keys("y");
    terminal.until("that it was stopped", |screen| screen.contains("stopped alpha") && !screen.contains("alpha  "));
    terminal.keys("q");
    assert_eq!(terminal.ended().code(), Some(0));
    let screen = terminal.screen();
    assert!(!screen.contains("\x1b]0;") && !screen.contains('\u{202e}') && !screen.contains('\u{9b}'), "{screen:?}");
    assert!(screen.contains("\\u{1b}]0;owned\\u{7}\\u{202e}"), "{screen:?}");
}
