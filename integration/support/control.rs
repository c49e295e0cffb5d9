//! A server that only answers: what it is told to, on a socket of its own.

use std::path::Path;
use std::sync::{Arc, Mutex};

use agent_creds::control::v1::control_server::{Control, ControlServer};
use agent_creds::control::v1::projects_server::{Projects, ProjectsServer};
use agent_creds::control::v1::*;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request as Call, Response, Status};

type Stream<T> = ReceiverStream<Result<T, Status>>;

/// What it answers. Nothing can be launched or entered; a sandbox that is stopped is gone.
#[derive(Default)]
pub struct Answers {
    pub status: GetStatusResponse,
    pub sandboxes: Mutex<Vec<Sandbox>>,
    pub projects: Vec<Project>,
    /// What happened; no more comes.
    pub events: Vec<Event>,
}

/// Serves them until the runtime is dropped.
pub fn serve(socket: &Path, answers: Answers) -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let answers = Arc::new(answers);
    runtime.block_on(async {
        let listener = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
        let services = tonic::transport::Server::builder()
            .add_service(ControlServer::from_arc(Arc::clone(&answers)))
            .add_service(ProjectsServer::from_arc(answers));
        tokio::spawn(services.serve_with_incoming(listener));
    });
    runtime
}

#[tonic::async_trait]
impl Control for Answers {
    type LaunchStream = Stream<LaunchEvent>;
    type WatchStream = Stream<Event>;

    async fn get_status(&self, _: Call<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(self.status.clone()))
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
        self.sandboxes.lock().unwrap().retain(|sandbox| sandbox.name != name);
        Ok(Response::new(StopResponse { stopped: vec![name], problems: Vec::new() }))
    }

    async fn accept(&self, _: Call<AcceptRequest>) -> Result<Response<AcceptResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn list(&self, _: Call<ListRequest>) -> Result<Response<ListResponse>, Status> {
        Ok(Response::new(ListResponse { sandboxes: self.sandboxes.lock().unwrap().clone() }))
    }

    async fn watch(&self, _: Call<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (sender, events) = mpsc::channel(8);
        let past = self.events.clone();
        tokio::spawn(async move {
            for event in past {
                let _ = sender.send(Ok(event)).await;
            }
            sender.closed().await;
        });
        Ok(Response::new(ReceiverStream::new(events)))
    }
}

#[tonic::async_trait]
impl Projects for Answers {
    async fn list_projects(&self, _: Call<ListProjectsRequest>) -> Result<Response<ListProjectsResponse>, Status> {
        Ok(Response::new(ListProjectsResponse { generation: 1, projects: self.projects.clone() }))
    }
}
