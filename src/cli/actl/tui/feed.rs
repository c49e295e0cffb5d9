//! What the server and the state folder tell, as inputs: asked for each second, and followed; and what is to be done there.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tonic::Status;

use super::app::{Action, Input, View};
use super::propose::{Proposal, Wanted, propose, write};
use crate::cli::Environment;
use crate::control::client::{ConnectError, connect, connect_fleet, connect_projects};
use crate::control::v1::{
    GetStatusRequest, ListNodesRequest, ListProjectsRequest, ListProjectsResponse, ListRequest, ReloadRequest,
    ReloadResponse, StopRequest, StopResponse, WatchRequest,
};
use crate::domain::macaroon::TokenId;
use crate::launch::LaunchError;
use crate::state::{Issued, TokenLog};

/// Between two looks, and before events are asked for again.
const PERIOD: Duration = Duration::from_secs(1);
/// A server that takes longer to tell what it knows does not answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// Stopping removes a container and a network; reading files again waits for the Envoys.
const PATIENCE: Duration = Duration::from_secs(60);
/// The events to begin with.
const REPLAY: u32 = 1000;
/// Events that are handed over at once. The stream is read until none waits, so that a flood costs few wake-ups of the screen.
const BATCH: usize = 256;
/// For so long events gather.
const GATHER: Duration = Duration::from_millis(50);
/// The tokens that are shown, the newest first.
const MOST_TOKENS: usize = 1000;

/// Where things are.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) runtime_dir: PathBuf,
    pub(super) state_dir: PathBuf,
}

/// The tasks that ask, which end when this is dropped.
pub(super) struct Feed {
    _looking: JoinSet<()>,
    doing: JoinSet<()>,
}

impl Feed {
    /// Begins to ask; what it is told to do, it does. `view` says what is on the screen.
    pub(super) fn start(
        places: Arc<Places>,
        inputs: &mpsc::Sender<Input>,
        actions: mpsc::Receiver<Action>,
        view: watch::Receiver<View>,
    ) -> Self {
        let ended = |_: Option<()>| ();
        let (mut looking, mut doing) = (JoinSet::new(), JoinSet::new());
        let (to, at) = (inputs.clone(), Arc::clone(&places));
        looking.spawn(async move { ended(look(&at, &to).await) });
        let (to, at) = (inputs.clone(), Arc::clone(&places));
        looking.spawn(async move { ended(follow(&at, &to).await) });
        let (to, at, of) = (inputs.clone(), Arc::clone(&places), view.clone());
        looking.spawn(async move { ended(tokens(&at, &to, of).await) });
        let (to, at) = (inputs.clone(), Arc::clone(&places));
        looking.spawn(async move { ended(nodes(&at, &to, view).await) });
        let to = inputs.clone();
        doing.spawn(async move { act(places, &to, actions).await });
        Self { _looking: looking, doing }
    }

    /// Ends when what was to be done is: a call that breaks off might leave something.
    pub(super) async fn end(mut self) {
        while self.doing.join_next().await.is_some() {}
    }
}

// ── Looking ───────────────────────────────────────────────────────────────────────────────────────────────────────────

async fn look(places: &Places, inputs: &mpsc::Sender<Input>) -> Option<()> {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut clients = None;
    loop {
        ticks.tick().await;
        let asked = async {
            let (control, projects) = match &mut clients {
                Some(clients) => clients,
                none => none.insert((
                    connect(&places.runtime_dir).await.map_err(|error| of_connect(&error))?,
                    connect_projects(&places.runtime_dir).await.map_err(|error| of_connect(&error))?,
                )),
            };
            let failed = |status: Status| failed("ask how it is", &status);
            let status = control.get_status(GetStatusRequest {}).await.map_err(failed)?.into_inner();
            let sandboxes = control.list(ListRequest {}).await.map_err(failed)?.into_inner().sandboxes;
            let projects = projects.list_projects(ListProjectsRequest {}).await.map_err(failed)?.into_inner();
            Ok((status, sandboxes, projects))
        };
        match timeout(DEADLINE, asked).await.unwrap_or_else(|_| Err("the server does not answer".to_owned())) {
            Ok((status, sandboxes, projects)) => {
                inputs.send(Input::Sandboxes(sandboxes)).await.ok()?;
                inputs.send(Input::Projects(projects)).await.ok()?;
                inputs.send(Input::Status(status)).await.ok()?;
            }
            Err(why) => {
                clients = None;
                inputs.send(Input::Disconnected(why)).await.ok()?;
            }
        }
    }
}

async fn follow(places: &Places, inputs: &mpsc::Sender<Input>) -> Option<()> {
    loop {
        let request = WatchRequest { name: String::new(), replay: REPLAY, no_follow: false, gateways: true };
        if let Ok(mut client) = connect(&places.runtime_dir).await
            && let Ok(events) = client.watch(request).await
        {
            inputs.send(Input::Watching).await.ok()?;
            // When it breaks off, the looks tell why.
            let mut batches =
                events.into_inner().take_while(|event| std::future::ready(event.is_ok())).ready_chunks(BATCH);
            while let Some(batch) = batches.next().await {
                inputs.send(Input::Events(batch.into_iter().flatten().collect())).await.ok()?;
                sleep(GATHER).await;
            }
        }
        sleep(PERIOD).await;
    }
}

/// The tokens, whenever the log of them has changed and they are on the screen.
async fn tokens(places: &Places, inputs: &mpsc::Sender<Input>, mut view: watch::Receiver<View>) -> Option<()> {
    let mut last = None;
    loop {
        view.wait_for(|view| *view == View::Tokens).await.ok()?;
        let folder = places.state_dir.clone();
        let read = tokio::task::spawn_blocking(move || read_tokens(&folder)).await.ok()?;
        if last.as_ref() != Some(&read) {
            inputs.send(Input::Tokens(read.clone())).await.ok()?;
            last = Some(read);
        }
        sleep(PERIOD).await;
    }
}

fn read_tokens(folder: &Path) -> Result<Vec<Issued>, String> {
    // Looking makes nothing.
    if !folder.join("tokens.db").is_file() {
        return Ok(Vec::new());
    }
    let mut tokens = open(folder)?.all().map_err(in_full)?;
    tokens.truncate(MOST_TOKENS);
    Ok(tokens)
}

fn open(folder: &Path) -> Result<TokenLog, String> {
    TokenLog::open(folder).map_err(in_full)
}

fn in_full(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into())
}

/// The Envoys, while they are on the screen: there may be thousands.
async fn nodes(places: &Places, inputs: &mpsc::Sender<Input>, mut view: watch::Receiver<View>) -> Option<()> {
    loop {
        view.wait_for(|view| *view == View::Nodes).await.ok()?;
        let asked = async {
            let mut client = connect_fleet(&places.runtime_dir).await.map_err(|error| of_connect(&error))?;
            let answer = client.list_nodes(ListNodesRequest::default()).await;
            answer.map(tonic::Response::into_inner).map_err(|status| failed("list the Envoys", &status))
        };
        let answer = timeout(DEADLINE, asked).await.unwrap_or_else(|_| Err("the server does not answer".to_owned()));
        inputs.send(Input::Nodes(answer)).await.ok()?;
        sleep(PERIOD).await;
    }
}

fn of_connect(error: &ConnectError) -> String {
    match error {
        ConnectError::Failed { source, .. } => format!("{error}: {source}"),
        ConnectError::NotRunning(_) | ConnectError::BadPath(_) => error.to_string(),
    }
}

fn failed(action: &'static str, status: &Status) -> String {
    LaunchError::of_call(action, status).to_string()
}

// ── Doing ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Until nobody can ask for more, and all is done.
async fn act(places: Arc<Places>, inputs: &mpsc::Sender<Input>, mut actions: mpsc::Receiver<Action>) {
    let mut running = JoinSet::new();
    while let Some(action) = actions.recv().await {
        let (places, inputs) = (Arc::clone(&places), inputs.clone());
        running.spawn(async move {
            if let Some(done) = carried_out(&places, action).await {
                // Nobody may be there to see it.
                let _ = inputs.send(done).await;
            }
        });
    }
    running.join_all().await;
}

async fn carried_out(places: &Places, action: Action) -> Option<Input> {
    Some(match action {
        Action::Leave => return None,
        Action::Stop(name) => {
            let result = within(stop(places, &name)).await;
            Input::Stopped { name, result }
        }
        Action::Revoke(id) => Input::Revoked { id, result: revoke(places.state_dir.clone(), id).await },
        Action::Propose(wanted) => Input::Proposed(within(find(places, wanted)).await),
        Action::Write(proposal) => Input::Written(put(places, *proposal).await),
    })
}

async fn within<T>(asked: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err("the server is still at it".to_owned()))
}

async fn stop(places: &Places, name: &str) -> Result<StopResponse, String> {
    let mut client = connect(&places.runtime_dir).await.map_err(|error| of_connect(&error))?;
    let answer = client.stop(StopRequest { name: name.to_owned(), all: false }).await;
    answer.map(tonic::Response::into_inner).map_err(|status| failed("stop", &status))
}

async fn revoke(folder: PathBuf, id: TokenId) -> Result<bool, String> {
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let revoker = Environment::of_process().issuer_by("actl");
    blocking(move || open(&folder)?.revoke(id, now, &revoker).map_err(in_full)).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err("it failed".to_owned()))
}

async fn find(places: &Places, wanted: Wanted) -> Result<Proposal, String> {
    let mut client = connect_projects(&places.runtime_dir).await.map_err(|error| of_connect(&error))?;
    let answer = client.list_projects(ListProjectsRequest {}).await;
    let ListProjectsResponse { projects, .. } =
        answer.map_err(|status| failed("ask which file it is", &status))?.into_inner();
    let project = projects.into_iter().find(|project| project.name == wanted.sandbox);
    let project = project.ok_or_else(|| format!("{} is served no more", wanted.sandbox))?;
    blocking(move || propose(&project, &wanted)).await
}

async fn reload(places: &Places) -> Result<ReloadResponse, String> {
    let mut client = connect_fleet(&places.runtime_dir).await.map_err(|error| of_connect(&error))?;
    let answer = client.reload(ReloadRequest {}).await;
    answer.map(tonic::Response::into_inner).map_err(|status| failed("read it again", &status))
}

/// Writes it, and waits until it is in force.
async fn put(places: &Places, proposal: Proposal) -> Result<String, String> {
    let path = proposal.path.clone();
    let (path, what) = (path.display(), proposal.what.clone());
    blocking(move || write(&proposal)).await?;
    let answer = within(reload(places)).await.map_err(|why| format!("wrote {path}; and then: {why}"))?;
    let text = path.to_string();
    match answer.problems.iter().find(|problem| problem.starts_with(&text)) {
        Some(problem) => Err(format!("wrote it, and it is not in force: {problem}")),
        None => Ok(format!("{what} is allowed now (generation {}): wrote {path}", answer.generation)),
    }
}
