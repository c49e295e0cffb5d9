//! What is served, for `actl`: which projects, and which file each is.

use std::path::Path;
use std::sync::Arc;

use tonic::{Request, Response, Status as Answer};

use crate::config::{Loaded, ProjectConfig, ProjectKind};
use crate::control::v1::projects_server::Projects;
use crate::control::v1::{ListProjectsRequest, ListProjectsResponse, Project};
use crate::server::status::Status;

/// Hosts that are told of each project.
const MOST_UPSTREAMS: usize = 64;

/// The service.
pub(in crate::server) struct ProjectsService {
    pub(super) status: Arc<Status>,
}

#[tonic::async_trait]
impl Projects for ProjectsService {
    async fn list_projects(&self, _: Request<ListProjectsRequest>) -> Result<Response<ListProjectsResponse>, Answer> {
        let applied = self.status.applied();
        let loaded = applied.borrow().clone();
        Ok(Response::new(loaded.map(|loaded| list(&loaded)).unwrap_or_default()))
    }
}

fn list(loaded: &Loaded) -> ListProjectsResponse {
    let mut projects: Vec<Project> = loaded.projects.iter().map(|project| describe(project, loaded)).collect();
    projects.sort_by(|a, b| a.name.cmp(&b.name));
    ListProjectsResponse { generation: loaded.generation, projects }
}

fn describe(project: &ProjectConfig, loaded: &Loaded) -> Project {
    let listen = match &project.kind {
        ProjectKind::Gateway(gateway) => Some(gateway.listen.to_string()),
        ProjectKind::Sandbox(_) => None,
    };
    let file = Path::new(&*project.origin.file);
    // As it was named; this process stays in the folder in which it was.
    let path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    Project {
        name: project.id.to_string(),
        gateway: listen.is_some(),
        config_path: path.display().to_string(),
        listen: listen.unwrap_or_default(),
        upstreams: project.upstreams.keys().take(MOST_UPSTREAMS).map(ToString::to_string).collect(),
        upstream_count: u32::try_from(project.upstreams.len()).unwrap_or(u32::MAX),
        unconfirmed: loaded.unconfirmed.contains(&project.id),
    }
}
