//! What the server tells, as inputs: asked for each second, and followed.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tonic::Status;

use super::app::Input;
use crate::control::v1::{GetStatusRequest, ListRequest, StopRequest, StopResponse, WatchRequest};
use crate::launch::{Client, LaunchError};

/// Between two looks at the sandboxes, and before the events are asked for again.
const PERIOD: Duration = Duration::from_secs(1);
/// A server that takes longer to tell what it knows does not answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// Stopping removes a container and a network.
const STOP_DEADLINE: Duration = Duration::from_secs(60);
/// The events to begin with.
const REPLAY: u32 = 500;

/// The tasks that ask, which end when this is dropped.
pub(super) struct Feed {
    _looking: JoinSet<()>,
    stopping: JoinSet<()>,
}

impl Feed {
    /// Begins to ask, and to have sandboxes stopped.
    pub(super) fn start(client: Client, inputs: &mpsc::Sender<Input>, stops: mpsc::Receiver<String>) -> Self {
        let ended = |_: Option<()>| ();
        let (mut looking, mut stopping) = (JoinSet::new(), JoinSet::new());
        let (to, of) = (inputs.clone(), client.clone());
        looking.spawn(async move { ended(look(of, &to).await) });
        let (to, of) = (inputs.clone(), client.clone());
        looking.spawn(async move { ended(follow(of, &to).await) });
        let to = inputs.clone();
        stopping.spawn(async move { stop(client, &to, stops).await });
        Self { _looking: looking, stopping }
    }

    /// Ends when what was to be stopped is: a call that breaks off might leave something.
    pub(super) async fn end(mut self) {
        while self.stopping.join_next().await.is_some() {}
    }
}

async fn look(mut client: Client, inputs: &mpsc::Sender<Input>) -> Option<()> {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let asked = async {
            let status = client.get_status(GetStatusRequest {}).await?.into_inner();
            Ok((status, client.list(ListRequest {}).await?.into_inner().sandboxes))
        };
        let answer = timeout(DEADLINE, asked).await.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
        match answer {
            Ok((status, sandboxes)) => {
                inputs.send(Input::Status(status)).await.ok()?;
                inputs.send(Input::Sandboxes(sandboxes)).await.ok()?;
            }
            Err(status) => inputs.send(Input::Disconnected(failed("list the sandboxes", &status))).await.ok()?,
        }
    }
}

async fn follow(mut client: Client, inputs: &mpsc::Sender<Input>) -> Option<()> {
    loop {
        let request = WatchRequest { name: String::new(), replay: REPLAY, no_follow: false, gateways: false };
        if let Ok(events) = client.watch(request).await {
            let mut events = events.into_inner();
            inputs.send(Input::Watching).await.ok()?;
            // When it breaks off, the looks tell why.
            while let Ok(Some(event)) = events.message().await {
                inputs.send(Input::Event(event)).await.ok()?;
            }
        }
        sleep(PERIOD).await;
    }
}

/// Until nobody can ask for more, and all is done.
async fn stop(client: Client, inputs: &mpsc::Sender<Input>, mut stops: mpsc::Receiver<String>) {
    let mut running = JoinSet::new();
    while let Some(name) = stops.recv().await {
        let (mut client, inputs) = (client.clone(), inputs.clone());
        running.spawn(async move {
            let result = stop_one(&mut client, &name).await;
            // Nobody may be there to see it.
            let _ = inputs.send(Input::Stopped { name, result }).await;
        });
    }
    running.join_all().await;
}

async fn stop_one(client: &mut Client, name: &str) -> Result<StopResponse, String> {
    let asked = client.stop(StopRequest { name: name.to_owned(), all: false });
    match timeout(STOP_DEADLINE, asked).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(failed("stop", &status)),
        Err(_) => Err("the server is still at it".to_owned()),
    }
}

fn failed(action: &'static str, status: &Status) -> String {
    LaunchError::of_call(action, status).to_string()
}
