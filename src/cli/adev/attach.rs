//! `adev console` and `adev run`: a sandbox is found or launched, and attached to.

use std::cell::RefCell;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use tokio::sync::mpsc;

use super::progress::Display;
use super::project::{self, Project};
use super::{ProjectArgs, colours, events, list, server};
use crate::config::PROJECT_FILE;
use crate::control::v1::{LaunchRequest, Sandbox, StopRequest, WatchRequest};
use crate::launch::{self, Client, Console, Ended, LaunchError, Piped, Place, Progress, Signals, printable};
use crate::sandbox::docker::Docker;

#[derive(Debug, Args)]
pub(super) struct ConsoleArgs {
    /// The sandbox. Default: this project's.
    name: Option<String>,
    #[command(flatten)]
    project: ProjectArgs,
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The sandbox. Default: this project's.
    pub(super) name: Option<String>,
    /// Stop the sandbox afterwards, if this launched it.
    #[arg(long)]
    pub(super) rm: bool,
    #[command(flatten)]
    project: ProjectArgs,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(super) command: Vec<String>,
}

impl ConsoleArgs {
    /// For a sandbox that there is.
    pub(super) fn of(name: String) -> Self {
        Self { name: Some(name), project: ProjectArgs { config: None } }
    }
}

/// A sandbox that is up.
struct Up {
    client: Client,
    docker: Docker,
    name: String,
    /// It was not before.
    launched: bool,
}

/// Opens a shell on this terminal.
pub(super) async fn console(place: &Place, args: &ConsoleArgs) -> anyhow::Result<u8> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        bail!("a console needs a terminal on standard input and output: use `adev run -- CMD` in scripts and pipes");
    }
    let display = Display::new();
    let up = bring_up(place, args.name.as_deref(), &args.project, &display, &RefCell::new(None)).await;
    display.finish().await;
    let Up { mut client, docker, name, .. } = up?;

    let (sender, notices) = mpsc::channel(64);
    let watching = tokio::spawn(watch(place.clone(), client.clone(), name.clone(), sender));
    let environment = terminal_environment(&|name| std::env::var(name).ok());
    let what = Console { sandbox: &name, environment: &environment };
    let outcome = launch::console(&mut client, &docker, &what, notices).await;
    watching.abort();
    let (ended, leftovers) = outcome?;

    let mut last = leftovers.join("\n");
    if !last.is_empty() {
        last.push('\n');
    }
    let code = match ended {
        Ended::Exited(code) => code,
        Ended::Detached => {
            last.insert(0, '\n');
            0
        }
        Ended::Signalled(caught) => caught.exit_code(),
    };
    if let Some(line) = farewell(&mut client, &name, ended).await {
        last.push_str(&line);
    }
    // The terminal may be gone.
    let _ = io::stderr().write_all(last.as_bytes());
    Ok(code)
}

/// Brings a sandbox up that there is.
pub(super) async fn start(place: &Place, name: &str) -> anyhow::Result<()> {
    let display = Display::new();
    let up = bring_up(place, Some(name), &ProjectArgs { config: None }, &display, &RefCell::new(None)).await;
    display.finish().await;
    up.map(|_| ())
}

/// The line that a console ends with.
async fn farewell(client: &mut Client, name: &str, ended: Ended) -> Option<String> {
    if matches!(ended, Ended::Signalled(_)) {
        return None;
    }
    let sandboxes = tokio::time::timeout(Duration::from_secs(2), list(client)).await.ok()?.ok()?;
    let sandbox = sandboxes.iter().find(|sandbox| sandbox.name == name);
    Some(match sandbox {
        Some(sandbox) if project::runs(sandbox) && ended == Ended::Detached => format!(
            "left; what runs goes on in the sandbox {name}, and `adev console {name}` opens another shell. `adev stop {name}` ends it.\n"
        ),
        Some(sandbox) if project::runs(sandbox) => {
            format!("the sandbox {name} keeps running; `adev stop {name}` ends it.\n")
        }
        _ => format!("the sandbox {name} was stopped.\n"),
    })
}

/// Tells of events as long as the console is open, also of a server that was started again.
async fn watch(place: Place, mut client: Client, name: String, notices: mpsc::Sender<String>) {
    let (dim, end) = if colours(&io::stdout()) { ("\u{1b}[2m", "\u{1b}[22m") } else { ("", "") };
    let tell = |text: String| {
        // With no room there are notices enough already.
        let _ = notices.try_send(format!("{dim}[agent-creds] {text}{end}"));
    };
    loop {
        let request = WatchRequest { name: name.clone(), replay: 0, no_follow: false, gateways: false };
        if let Ok(events) = client.watch(request).await {
            let mut events = events.into_inner();
            while let Ok(Some(event)) = events.message().await {
                if let Some(notice) = events::as_notice(&event) {
                    tell(notice);
                }
            }
        }
        tell(
            "the server is gone, and with it the network; any adev command in another terminal starts it again"
                .to_owned(),
        );
        client = loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if let Ok(Some((client, _))) = launch::running(&place).await {
                break client;
            }
        };
        tell("the server is back".to_owned());
    }
}

/// Runs a command.
pub(super) async fn run(place: &Place, args: &RunArgs) -> anyhow::Result<u8> {
    let mut signals = Signals::catch().context("cannot catch signals")?;
    let display = Display::new();
    let begun = RefCell::new(None);
    let up = tokio::select! {
        up = bring_up(place, args.name.as_deref(), &args.project, &display, &begun) => Ok(up),
        caught = signals.end() => Err(caught),
    };
    display.finish().await;
    let Up { mut client, docker, name, launched } = match up {
        Ok(up) => up?,
        Err(caught) => {
            // The launch goes on without us.
            if let Some((mut client, name)) = begun.take().filter(|_| args.rm) {
                remove(&mut client, &name).await;
            }
            return Ok(caught.exit_code());
        }
    };
    let environment = language(&|name| std::env::var(name).ok()).into_iter().collect::<Vec<_>>();
    let what = Piped { sandbox: &name, command: &args.command, environment: &environment };
    let outcome = launch::piped(&mut client, &docker, &what, &mut signals).await;
    if args.rm && launched {
        remove(&mut client, &name).await;
    }
    Ok(outcome?)
}

/// Stops a sandbox that was launched for one command. The command is over: what goes wrong here does not change how it ended.
async fn remove(client: &mut Client, name: &str) {
    let problems = match client.stop(StopRequest { name: name.to_owned(), all: false }).await {
        Ok(answer) => answer.into_inner().problems,
        Err(status) => vec![LaunchError::of_call("stop the sandbox", &status).to_string()],
    };
    for problem in problems {
        let _ = writeln!(io::stderr(), "warning: {name} was not stopped: {}", printable(&problem));
    }
}

/// Finds out which sandbox is meant, and has the server bring it up. `begun` is set when a launch of our own has begun.
async fn bring_up(
    place: &Place,
    typed: Option<&str>,
    args: &ProjectArgs,
    display: &Display,
    begun: &RefCell<Option<(Client, String)>>,
) -> anyhow::Result<Up> {
    let project = Project::find(args.config.as_deref())?;
    // What cannot work anyway is said before anything is started.
    if project.is_none() && typed.is_none() {
        bail!("there is no {PROJECT_FILE} here or in a folder above: `adev init` writes one");
    }
    if let Some(project) = &project
        && typed.is_none()
        && project.config.is_err()
    {
        let known = match launch::running(place).await? {
            Some((mut client, _)) => list(&mut client).await?,
            None => Vec::new(),
        };
        if project::sandbox_of(&known, project).is_none_or(|sandbox| !project::runs(sandbox)) {
            project.config()?;
        }
    }
    let docker_host = std::env::var("DOCKER_HOST").ok();
    let docker = Docker::connect(docker_host.as_deref()).await?;
    let mut client = server(place, display).await?;
    let sandboxes = list(&mut client).await?;
    let meant = meant(typed, project, args.config.is_some(), &sandboxes)?;
    if let Err(problems) = &meant.project.config {
        display.show(Progress::Warning(format!("the last good version stays in force: {problems}")));
    }
    let launched = !sandboxes.iter().any(|sandbox| sandbox.name == meant.name && project::runs(sandbox));
    if launched {
        begun.replace(Some((client.clone(), meant.name.clone())));
    }
    let request = LaunchRequest {
        config_path: text(&meant.project.file)?,
        name: meant.name,
        workspace: text(meant.project.workspace())?,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        host_environment: meant.project.host_environment(&|name| std::env::var_os(name))?.into_iter().collect(),
    };
    let sandbox = launch::launch(&mut client, request, &|progress| display.show(progress)).await?;
    Ok(Up { client, docker, name: sandbox.name, launched })
}

/// A sandbox by name, and the project it is of.
#[derive(Debug)]
struct Meant {
    name: String,
    project: Project,
}

/// A name that was typed is one that is there, of whatever project, or a new one of the project at hand.
fn meant(
    typed: Option<&str>,
    project: Option<Project>,
    project_given: bool,
    sandboxes: &[Sandbox],
) -> anyhow::Result<Meant> {
    let Some(typed) = typed else {
        let Some(project) = project else { bail!("there is no {PROJECT_FILE} here or in a folder above") };
        let name = match (&project.config, project::sandbox_of(sandboxes, &project)) {
            (Ok(config), _) => config.id.to_string(),
            (Err(_), Some(sandbox)) => sandbox.name.clone(),
            (Err(_), None) => {
                project.config()?;
                String::new()
            }
        };
        return Ok(Meant { name, project });
    };
    let name = project::typed(typed).to_string();
    let there = sandboxes.iter().find(|sandbox| sandbox.name == name);
    match (there, project) {
        (Some(sandbox), project) if !project_given => {
            let file = std::path::Path::new(&sandbox.config_path);
            let project = match project {
                Some(project) if project.file == file => project,
                _ => Project::read(file)?,
            };
            if !project::runs(sandbox) {
                project.config()?;
            }
            Ok(Meant { name, project })
        }
        (_, Some(project)) => {
            project.config()?;
            Ok(Meant { name, project })
        }
        (_, None) => bail!(
            "there is no sandbox {name}, and no {PROJECT_FILE} here to launch it from: `adev list` shows the sandboxes there are"
        ),
    }
}

fn text(path: &std::path::Path) -> anyhow::Result<String> {
    let text = path.to_str().map(str::to_owned);
    text.with_context(|| {
        format!("the path {} is not UTF-8, and Docker cannot be told of it: rename it", path.display())
    })
}

/// Terminals that every image with terminal descriptions knows (Debian's `ncurses-base`); others are taken for the most common one,
/// rather than not being known inside.
const TERMINALS: [&str; 13] = [
    "ansi",
    "dumb",
    "linux",
    "rxvt",
    "screen",
    "screen-256color",
    "tmux",
    "tmux-256color",
    "vt100",
    "vt102",
    "vt220",
    "xterm",
    "xterm-256color",
];

/// What programs are to know of the terminal.
fn terminal_environment(variable: &dyn Fn(&str) -> Option<String>) -> Vec<(String, String)> {
    let named = variable("TERM").filter(|term| TERMINALS.contains(&term.as_str()));
    let mut environment = vec![("TERM".to_owned(), named.unwrap_or_else(|| "xterm-256color".to_owned()))];
    for name in ["COLORTERM", "NO_COLOR"] {
        environment.extend(variable(name).filter(|value| !value.is_empty()).map(|value| (name.to_owned(), value)));
    }
    environment.extend(language(variable));
    environment
}

/// The character set, by a locale that every image has: the host's own would be missing in most, and programs complain then.
fn language(variable: &dyn Fn(&str) -> Option<String>) -> Option<(String, String)> {
    let set =
        ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(|name| variable(name).filter(|value| !value.is_empty()))?;
    let set = set.to_ascii_lowercase();
    (set.contains("utf-8") || set.contains("utf8")).then(|| ("LANG".to_owned(), "C.UTF-8".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::control::v1::State;

    #[test]
    fn the_terminal_is_named_so_that_it_is_known_inside() {
        let environment = |set: &[(&str, &str)]| {
            let variable = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
            let all = terminal_environment(&variable).into_iter().map(|(name, value)| format!("{name}={value}"));
            all.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(environment(&[]), "TERM=xterm-256color");
        assert_eq!(
            environment(&[
                ("TERM", "xterm-kitty"),
                ("COLORTERM", "truecolor"),
                ("LANG", "de_DE.UTF-8"),
                ("NO_COLOR", "")
            ]),
            "TERM=xterm-256color COLORTERM=truecolor LANG=C.UTF-8"
        );
        assert_eq!(environment(&[("TERM", "dumb"), ("LC_ALL", "C"), ("LANG", "en_US.UTF-8")]), "TERM=dumb");
    }

    #[test]
    fn a_typed_name_is_what_is_there_or_something_new_of_this_project() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        for name in ["here", "there"] {
            fs::create_dir(path.join(name)).unwrap();
            fs::write(path.join(name).join(PROJECT_FILE), "").unwrap();
        }
        let project = |name: &str| Some(Project::read(&path.join(name).join(PROJECT_FILE)).unwrap());
        let known = [Sandbox {
            name: "old".into(),
            state: State::Stopped.into(),
            config_path: text(&path.join("there").join(PROJECT_FILE)).unwrap(),
            ..Sandbox::default()
        }];
        let folder = |meant: Meant| {
            let folder = meant.project.workspace().file_name().unwrap().to_str().unwrap().to_owned();
            (meant.name, folder)
        };
        let of = |name: &str, folder: &str| (name.to_owned(), folder.to_owned());
        assert_eq!(folder(meant(None, project("here"), false, &known).unwrap()), of("here", "here"));
        assert_eq!(folder(meant(Some("old"), project("here"), false, &known).unwrap()), of("old", "there"));
        assert_eq!(folder(meant(Some("old"), None, false, &known).unwrap()), of("old", "there"));
        assert_eq!(folder(meant(Some("New One"), project("here"), false, &known).unwrap()), of("new-one", "here"));
        // Given with --config it is meant; the server refuses a name that is taken.
        assert_eq!(folder(meant(Some("old"), project("here"), true, &known).unwrap()), of("old", "here"));
        assert!(meant(Some("new"), None, false, &known).unwrap_err().to_string().contains("adev list"));
        // A broken file is in force for what runs already, and for nothing else.
        fs::write(path.join("there").join(PROJECT_FILE), "[").unwrap();
        assert!(meant(Some("old"), None, false, &known).is_err());
        assert!(meant(None, project("there"), false, &[]).is_err());
        let running = [Sandbox { state: State::Running.into(), ..known[0].clone() }];
        assert_eq!(folder(meant(Some("old"), None, false, &running).unwrap()), of("old", "there"));
        assert_eq!(folder(meant(None, project("there"), false, &running).unwrap()), of("old", "there"));
    }
}
