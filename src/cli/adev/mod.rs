//! The `adev` command line.

mod attach;
mod events;
mod init;
pub(super) mod list;
mod progress;
mod project;
mod tui;

use std::io::{self, IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueHint};

use self::progress::Display;
use super::folders::{FolderArgs, RuntimeArgs, absolute, runtime_dir, state_dir};
use crate::control::v1::{AcceptRequest, GetStatusResponse, ListRequest, Sandbox, StopRequest};
use crate::launch::{self, Client, LaunchError, Place, Progress, printable};

/// Sandboxes whose only way out is the proxy: an agent in one reaches what agent-creds.toml names, with tokens that are
/// worthless elsewhere.
#[derive(Debug, Parser)]
#[command(name = "adev", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    folders: FolderArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

const EXAMPLES: &str = "\
Examples:
  adev init --preset claude,github   write agent-creds.toml: what the agent may reach
  adev console                       a shell in this project's sandbox, at /workspace
  adev run -- npm test               one command in it, as in a pipe
  adev logs -f                       what it asks for, and what is refused
  adev stop                          end it; files in the project stay
  adev                               all sandboxes and what happens in them, with keys to start, enter and stop them

The server is started when it is needed, and goes on: `adev` may be ended at any time. Sandboxes run until they are stopped.

Environment: DOCKER_HOST (where Docker is), ENVOY_BIN (the Envoy to use), NO_COLOR.

Exit codes: 0 done, 1 failed, 2 wrong usage; `console` and `run` have their own, see their help.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Write an agent-creds.toml to begin with.
    #[command(after_help = INIT_HELP)]
    Init(init::Init),
    /// Open a shell in a sandbox, launched when it does not run.
    #[command(after_help = CONSOLE_HELP)]
    Console(attach::ConsoleArgs),
    /// Run one command in a sandbox, launched when it does not run.
    #[command(after_help = RUN_HELP)]
    Run(attach::RunArgs),
    /// Stop sandboxes, and remove everything that was made for them.
    Stop(Stop),
    /// Take over a sandbox's agent-creds.toml as it is now.
    #[command(after_help = ACCEPT_HELP)]
    Accept(Accept),
    /// Show all sandboxes.
    List {
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show requests, refusals, name lookups and changes of the configuration.
    #[command(after_help = LOGS_HELP)]
    Logs(events::Logs),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Become another program, in a session of its own.
    #[command(hide = true)]
    Detach {
        /// The program and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
}

const INIT_HELP: &str = "\
Examples:
  adev init                          in this folder; asks what the agent is to reach, on a terminal
  adev init --preset openai,python   without asking
  adev init ../other --runtime runc  another project, without gVisor";

const CONSOLE_HELP: &str = "\
The project is the nearest agent-creds.toml, here or in a folder above. Several consoles may be open on one sandbox. Ctrl-P Ctrl-Q
leaves without ending what runs. Edits of agent-creds.toml are applied at once, and shown.

Examples:
  adev console                       this project
  adev console second                another sandbox of this project, or one that is there under this name
  adev console --config ~/shop       the project in that folder

Exit code: the shell's; 1 when there was none.";

const RUN_HELP: &str = "\
Standard input, output and error are the command's, byte for byte; signals are passed on to it.

Examples:
  adev run -- npm test
  adev run --rm -- sh -c 'pip install -r requirements.txt && pytest'
  git diff | adev run -- claude -p 'review this' > review.md

Exit code: the command's (128+N when a signal ended it, 126 or 127 when it cannot be started); 125 when adev itself failed.";

const LOGS_HELP: &str = "\
Examples:
  adev logs                          the last events of this project's sandbox; of all, outside of a project
  adev logs -f                       and those to come
  adev logs --json | jq 'select(.allowed == false)'";

const ACCEPT_HELP: &str = "\
In the sandbox agent-creds.toml is mounted read-only. When an editor saves by renaming a new file over it, the mount is
gone, and the agent could have written the new file. Such a file is taken over by itself only if it allows nothing more;
else what was in force stays, until you have looked at the file and accept it.";

#[derive(Debug, Args)]
struct Accept {
    /// The sandbox. Default: this project's.
    name: Option<String>,
    #[command(flatten)]
    project: ProjectArgs,
}

#[derive(Debug, Args)]
struct Stop {
    /// The sandbox. Default: this project's.
    name: Option<String>,
    /// All of them.
    #[arg(long, conflicts_with_all = ["name", "config"])]
    all: bool,
    #[command(flatten)]
    project: ProjectArgs,
}

#[derive(Debug, Args)]
struct ProjectArgs {
    /// The project: an agent-creds.toml, or its folder. Default: the nearest, here or in a folder above.
    #[arg(long, value_name = "FILE|DIR", value_hint = ValueHint::AnyPath)]
    config: Option<PathBuf>,
}

/// The command line, for its man pages.
pub(super) fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command line of this process; what it prints and returns is all there is.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let failure = if matches!(cli.command, Some(Command::Run(_))) { 125 } else { 1 };
    match run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // The chain on one line, as anyhow does with `{:#}`.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::from(failure)
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<u8> {
    let command = match cli.command {
        Some(Command::Init(init)) => return init.run().map(|()| 0),
        Some(Command::Detach { command }) => return detach(&command),
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "adev", &mut script);
            return say(&String::from_utf8_lossy(&script)).map(|()| 0);
        }
        command => command,
    };
    let place = place(cli.folders, cli.runtime)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let outcome = runtime.block_on(async {
        match command {
            Some(Command::Console(args)) => attach::console(&place, &args).await,
            Some(Command::Run(args)) => attach::run(&place, &args).await,
            Some(Command::Stop(args)) => stop(&place, &args).await,
            Some(Command::Accept(args)) => accept(&place, &args).await,
            Some(Command::Logs(args)) => args.run(&place).await.map(|()| 0),
            Some(Command::List { json }) => show_list(&place, json).await.map(|()| 0),
            _ => overview(&place).await,
        }
    });
    // A write to a terminal that was stopped must not hold up the end.
    runtime.shutdown_background();
    outcome
}

/// For a server: it must outlive the terminal it is started from.
fn detach(command: &[std::ffi::OsString]) -> anyhow::Result<u8> {
    // Fails only for the leader of a process group, which is as good.
    let _ = rustix::process::setsid();
    let Some((program, arguments)) = command.split_first() else { anyhow::bail!("there is no program to become") };
    let error = std::process::Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", Path::new(program).display()))
}

fn place(folders: FolderArgs, runtime: RuntimeArgs) -> anyhow::Result<Place> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    Ok(Place {
        runtime_dir: absolute(&runtime_dir(runtime.runtime_dir, folders.state_dir.clone())?)?,
        state_dir: absolute(&state_dir(folders.state_dir)?)?,
        own_program: std::env::current_exe().context("cannot find this program's own file")?,
        envoy_bin: set("ENVOY_BIN").map(PathBuf::from),
        path: set("PATH"),
    })
}

/// The server, started when it does not run: after a crash or a reboot it is what repairs and cleans up.
async fn server(place: &Place, display: &Display) -> anyhow::Result<Client> {
    let (client, status) = launch::server(place, &|progress| display.show(progress)).await?;
    tell_of(&status, display);
    Ok(client)
}

fn tell_of(status: &GetStatusResponse, display: &Display) {
    if !status.version.is_empty() && status.version != env!("CARGO_PKG_VERSION") {
        let (theirs, own) = (printable(&status.version), env!("CARGO_PKG_VERSION"));
        display.show(Progress::Warning(format!(
            "the server that runs is version {theirs}, and this is {own}: `kill {}`, and the next adev starts the new one",
            status.pid
        )));
    }
}

async fn list(client: &mut Client) -> anyhow::Result<Vec<Sandbox>> {
    let answer = client.list(ListRequest {}).await;
    Ok(answer.map_err(|status| LaunchError::of_call("list the sandboxes", &status))?.into_inner().sandboxes)
}

async fn show_list(place: &Place, json: bool) -> anyhow::Result<()> {
    let display = Display::new();
    let asked = async { list(&mut server(place, &display).await?).await };
    let sandboxes = asked.await;
    display.finish().await;
    let sandboxes = sandboxes?;
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    say(&if json { list::as_json(&sandboxes) } else { list::as_text(&sandboxes, now, colours(&io::stdout())) })
}

/// `adev` alone: the overview on a terminal, the list elsewhere.
async fn overview(place: &Place) -> anyhow::Result<u8> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        show_list(place, false).await?;
        say("\n`adev console` opens a shell in this project's sandbox; `adev --help` shows the rest.\n")?;
        return Ok(0);
    }
    let mut app = tui::App::new(colours(&io::stdout()));
    loop {
        let display = Display::new();
        let client = server(place, &display).await;
        display.finish().await;
        let mut signals = launch::Signals::catch().context("cannot catch signals")?;
        let (back, outcome) = tui::run(client?, app, &mut signals).await?;
        app = back;
        let done = match outcome {
            tui::Outcome::Quit => return Ok(0),
            tui::Outcome::Signalled(caught) => return Ok(caught.exit_code()),
            tui::Outcome::Start(name) => attach::start(place, &name).await,
            tui::Outcome::Attach(name) => match attach::console(place, &attach::ConsoleArgs::of(name)).await {
                // By SIGHUP, SIGQUIT or SIGTERM: whoever sent it means all of this.
                Ok(code @ (129 | 131 | 143)) => return Ok(code),
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            },
        };
        if let Err(error) = done {
            app.tell(&format!("{error:#}"));
        }
    }
}

async fn accept(place: &Place, args: &Accept) -> anyhow::Result<u8> {
    let display = Display::new();
    let accepting = async {
        let mut client = server(place, &display).await?;
        let sandboxes = list(&mut client).await?;
        let name = project::name_of(args.name.as_deref(), args.project.config.as_deref(), &sandboxes)?;
        let answer = client.accept(AcceptRequest { name: name.clone() }).await;
        answer.map_err(|status| LaunchError::of_call("accept the file", &status))?;
        anyhow::Ok(name)
    };
    let outcome = accepting.await;
    display.finish().await;
    say(&format!("the sandbox {} follows its file as it is now\n", printable(&outcome?)))?;
    Ok(0)
}

async fn stop(place: &Place, args: &Stop) -> anyhow::Result<u8> {
    let display = Display::new();
    let stopping = async {
        let mut client = server(place, &display).await?;
        let name = if args.all {
            String::new()
        } else {
            let sandboxes = list(&mut client).await?;
            project::name_of(args.name.as_deref(), args.project.config.as_deref(), &sandboxes)?
        };
        let step = if args.all { "stopping all sandboxes".to_owned() } else { format!("stopping {name}") };
        display.show(Progress::Step(step));
        let request = StopRequest { name: name.clone(), all: args.all };
        let answer = client.stop(request).await;
        let answer = answer.map_err(|status| LaunchError::of_call("stop", &status))?.into_inner();
        anyhow::Ok((name, answer))
    };
    let outcome = stopping.await;
    display.finish().await;
    let (name, answer) = outcome?;
    for stopped in &answer.stopped {
        say(&format!("stopped {}\n", printable(stopped)))?;
    }
    for problem in &answer.problems {
        let _ = writeln!(io::stderr(), "error: {}", printable(problem));
    }
    if answer.stopped.is_empty() && answer.problems.is_empty() {
        anyhow::ensure!(args.all, "there is no sandbox {name}: `adev list` shows those there are");
        say("there is no sandbox to stop\n")?;
    }
    Ok(if answer.problems.is_empty() { 0 } else { 1 })
}

/// Prints on standard output. Nobody reading it any more is no error.
fn say(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot print"),
        _ => Ok(()),
    }
}

/// Whether colours are wanted there.
fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Option<Command>, clap::Error> {
        Cli::try_parse_from(words.split(' ')).map(|cli| cli.command)
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_command_is_taken_as_it_is_after_two_dashes() {
        let Ok(Some(Command::Run(args))) = parse("adev run --rm mine -- ls --rm -- x") else { panic!() };
        assert_eq!(
            (args.name.as_deref(), args.rm, args.command.join(" ")),
            (Some("mine"), true, "ls --rm -- x".into())
        );
        let Ok(Some(Command::Run(args))) = parse("adev run -- -x") else { panic!() };
        assert_eq!((args.name, args.command), (None, vec!["-x".to_owned()]));
        assert!(parse("adev run").is_err(), "without a command");
        assert!(parse("adev run ls -la").is_err(), "without the dashes");
    }

    #[test]
    fn folders_may_be_given_anywhere() {
        for words in ["adev --runtime-dir /r console", "adev console --runtime-dir /r", "adev --runtime-dir /r"] {
            let cli = Cli::try_parse_from(words.split(' ')).unwrap();
            assert_eq!(cli.runtime.runtime_dir.as_deref(), Some(Path::new("/r")), "{words}");
        }
    }

    #[test]
    fn stopping_all_names_none() {
        assert!(matches!(parse("adev stop --all"), Ok(Some(Command::Stop(Stop { all: true, .. })))));
        assert!(parse("adev stop --all mine").is_err());
        assert!(parse("adev stop --all --config x").is_err());
    }
}
