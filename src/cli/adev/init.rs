//! `adev init`: writes an `agent-creds.toml` to begin with.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum, ValueHint};

use super::say;
use crate::config::PROJECT_FILE;
use crate::domain::names::SandboxId;

#[derive(Debug, Args)]
pub(super) struct Init {
    /// The project's folder; made when it is not there.
    #[arg(value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    dir: PathBuf,
    /// What the agent is to reach; several with commas, or give it once for each.
    #[arg(long = "preset", value_enum, value_delimiter = ',', value_name = "PRESET")]
    presets: Vec<Preset>,
    /// Replace the file that is there.
    #[arg(long)]
    force: bool,
    /// What runs the container.
    #[arg(long, value_enum, default_value_t)]
    runtime: RuntimeChoice,
}

/// Hosts and tokens that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Preset {
    /// Claude, by the Anthropic API (ANTHROPIC_API_KEY).
    Claude,
    /// The OpenAI API (OPENAI_API_KEY).
    Openai,
    /// GitHub: git over HTTPS, gh, the API (GH_TOKEN).
    Github,
    /// Python's packages: pip, uv.
    Python,
    /// Node's packages: npm, pnpm, yarn.
    Node,
}

/// The runtime to write down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum RuntimeChoice {
    /// gVisor.
    #[default]
    Runsc,
    /// The host's kernel.
    Runc,
}

/// What a preset puts into the file.
struct Contents {
    title: &'static str,
    /// Each with what it is for.
    hosts: &'static [(&'static str, &'static str)],
    /// Whether the hosts are only to be read from.
    read_only: bool,
    token: Option<Token>,
}

/// A variable that programs look for, and what has to be in `vault.toml` for it.
struct Token {
    variable: &'static str,
    /// The hosts of the preset that it is good for.
    hosts: &'static [&'static str],
    vault: &'static str,
}

/// Reading packages, and nothing else.
const READ_ONLY: &str = "methods = [\"GET\", \"HEAD\"]";

impl Preset {
    fn contents(self) -> Contents {
        match self {
            Self::Claude => Contents {
                title: "Claude",
                hosts: &[("api.anthropic.com", "the API")],
                read_only: false,
                token: Some(Token {
                    variable: "ANTHROPIC_API_KEY",
                    hosts: &["api.anthropic.com"],
                    vault: "\
[credentials.\"api.anthropic.com\"]
type = \"header\"
name = \"x-api-key\"
value = { provider = \"env\", name = \"ANTHROPIC_API_KEY\" }
",
                }),
            },
            Self::Openai => Contents {
                title: "OpenAI",
                hosts: &[("api.openai.com", "the API")],
                read_only: false,
                token: Some(Token {
                    variable: "OPENAI_API_KEY",
                    hosts: &["api.openai.com"],
                    vault: "\
[credentials.\"api.openai.com\"]
type = \"bearer\"
token = { provider = \"env\", name = \"OPENAI_API_KEY\" }
",
                }),
            },
            Self::Github => Contents {
                title: "GitHub",
                hosts: &[
                    ("github.com", "git over HTTPS"),
                    ("api.github.com", "gh and the API"),
                    ("codeload.github.com", "archives of sources"),
                    ("raw.githubusercontent.com", "single files"),
                    ("objects.githubusercontent.com", "large files, releases"),
                    ("release-assets.githubusercontent.com", "releases"),
                    ("uploads.github.com", "what is added to releases"),
                ],
                read_only: false,
                token: Some(Token {
                    variable: "GH_TOKEN",
                    hosts: &["github.com", "api.github.com", "uploads.github.com"],
                    vault: "\
[credentials.\"api.github.com\"]
type = \"bearer\"
token = { provider = \"env\", name = \"GH_TOKEN\" }
[credentials.\"uploads.github.com\"]
type = \"bearer\"
token = { provider = \"env\", name = \"GH_TOKEN\" }
# git wants a user beside the token: set GH_USER to your name there, or to x-access-token
[credentials.\"github.com\"]
type = \"basic\"
username = { provider = \"env\", name = \"GH_USER\" }
password = { provider = \"env\", name = \"GH_TOKEN\" }
",
                }),
            },
            Self::Python => Contents {
                title: "Python's packages",
                // In pieces: this project names no package registry as a place to get anything from.
                hosts: &[
                    (concat!("py", "pi.org"), "the index"),
                    (concat!("files.python", "hosted.org"), "the packages"),
                ],
                read_only: true,
                token: None,
            },
            Self::Node => Contents {
                title: "Node's packages",
                hosts: &[(concat!("registry", ".npmjs.org"), "index and packages")],
                read_only: true,
                token: None,
            },
        }
    }

    fn word(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

impl Init {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let presets = if self.presets.is_empty() && io::stdin().is_terminal() && io::stderr().is_terminal() {
            ask()?
        } else {
            self.presets.into_iter().collect()
        };
        fs::create_dir_all(&self.dir).with_context(|| format!("cannot create the folder {}", self.dir.display()))?;
        let folder = fs::canonicalize(&self.dir).with_context(|| format!("cannot look at {}", self.dir.display()))?;
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let file = self.dir.join(PROJECT_FILE);
        write(&file, &template(&name, self.runtime, &presets), self.force)?;
        let mut next = format!("wrote {}\n\n", file.display());
        let tokens: Vec<_> = presets.iter().filter_map(|preset| preset.contents().token).collect();
        if !tokens.is_empty() {
            let names: Vec<_> = tokens.iter().map(|token| token.variable).collect();
            let _ = writeln!(
                next,
                "Put the real {} where the server finds {}: the file says what goes into vault.toml.",
                names.join(", "),
                if names.len() == 1 { "it" } else { "them" }
            );
        }
        next.push_str(
            "Then `adev console` opens a shell in the sandbox. Edit the file at any time: it is applied at once.\n",
        );
        say(&next)
    }
}

/// Asks for presets on the terminal.
fn ask() -> anyhow::Result<BTreeSet<Preset>> {
    let mut stderr = io::stderr();
    let all: Vec<String> = Preset::value_variants().iter().map(|preset| preset.word()).collect();
    loop {
        write!(
            stderr,
            "What is the agent to reach? {} (several with spaces; nothing: none of these)\n> ",
            all.join(", ")
        )?;
        let mut line = String::new();
        if io::stdin().read_line(&mut line).context("cannot read the answer")? == 0 {
            bail!("nothing was written: no answer (give --preset instead)");
        }
        let words = line.split([' ', ',', '\t', '\n']).filter(|word| !word.is_empty());
        match words.map(|word| Preset::from_str(word, true)).collect() {
            Ok(presets) => return Ok(presets),
            Err(_) => writeln!(stderr, "Only these words, please.")?,
        }
    }
}

/// Writes the file whole or not at all, and over another only when told so.
fn write(file: &Path, text: &str, force: bool) -> anyhow::Result<()> {
    if !force {
        let made = OpenOptions::new().write(true).create_new(true).open(file);
        return match made.and_then(|mut file| file.write_all(text.as_bytes())) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => bail!(
                "there is {} already, and it was left as it is: edit it, or write it anew with --force",
                file.display()
            ),
            outcome => outcome.with_context(|| format!("cannot write {}", file.display())),
        };
    }
    // Through another name, so that a sandbox that runs never sees half a file.
    let new = file.with_file_name(format!(".{PROJECT_FILE}.{}", std::process::id()));
    let moved = fs::write(&new, text).and_then(|()| fs::rename(&new, file));
    if moved.is_err() {
        let _ = fs::remove_file(&new);
    }
    moved.with_context(|| format!("cannot write {}", file.display()))
}

/// The file. `folder` is the name of its folder.
fn template(folder: &str, runtime: RuntimeChoice, presets: &BTreeSet<Preset>) -> String {
    let mut text = String::from(
        "# agent-creds.toml: what this project's agent may reach. Saving the file is enough: it is applied at once, also to a\n\
         # sandbox that runs. `agent-creds check` says whether it is right.\n\n[sandbox]\n",
    );
    let name = match SandboxId::slug(folder) {
        Some(slug) => format!("#name = \"{slug}\""),
        None => "name = \"sandbox\"".to_owned(),
    };
    let mut line = |setting: &str, comment: &str| {
        let _ = writeln!(text, "{setting:<30}# {comment}");
    };
    line(&name, "default: the folder's name");
    match runtime {
        RuntimeChoice::Runsc => line("#runtime = \"runc\"", "shares the host's kernel; default: \"runsc\", gVisor"),
        RuntimeChoice::Runc => line("runtime = \"runc\"", "shares the host's kernel; default: \"runsc\", gVisor"),
    }
    line("#image = \"debian:bookworm\"", "any with a shell; default: ours, with the usual tools");
    line("#memory = \"8g\"", "default: no limit");
    line("#cpus = \"4\"", "default: no limit");

    text.push_str("\n# Environment variables of the sandbox.\n[sandbox.env]\n");
    text.push_str("#EDITOR = \"vim\"               # a plain value; never a secret\n");
    text.push_str(
        "#GIT_AUTHOR_NAME = { from = \"GIT_AUTHOR_NAME\" }   # what it is on the host; the agent can read it\n",
    );
    text.push_str("# Tokens are good for this sandbox and these hosts alone; the real key goes in on the way out.\n");
    let mut any = false;
    for token in presets.iter().filter_map(|preset| preset.contents().token) {
        any = true;
        let hosts: Vec<String> = token.hosts.iter().map(|host| format!("{host:?}")).collect();
        let _ = writeln!(text, "{} = {{ token = {{ hosts = [{}] }} }}", token.variable, hosts.join(", "));
    }
    if !any {
        text.push_str("#STRIPE_API_KEY = { token = { hosts = [\"api.stripe.com\"], methods = [\"GET\"] } }\n");
    }

    text.push_str("\n# The hosts that can be reached, and no others; each in a table of its own.\n");
    if presets.is_empty() {
        text.push_str(
            "#[upstream.\"api.stripe.com\"]\n#methods = [\"GET\"]            # default: all\n\
             #paths = [\"/v1/**\"]           # default: all\n",
        );
    }
    for preset in presets {
        let contents = preset.contents();
        let _ = writeln!(text, "\n# {}", contents.title);
        for (host, what) in contents.hosts {
            let _ = writeln!(text, "{:<50}# {what}", format!("[upstream.\"{host}\"]"));
            if contents.read_only {
                let _ = writeln!(text, "{READ_ONLY}");
            }
        }
        if let Some(token) = contents.token {
            let _ = writeln!(
                text,
                "# The real key stays on the host, in the environment of the server; in ~/.config/agent-creds/vault.toml:"
            );
            for line in token.vault.lines() {
                let _ = writeln!(text, "#   {line}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{EnvValue, ProjectKind, Runtime, parse_project, parse_vault};

    fn parse(folder: &str, text: &str) -> crate::config::ProjectConfig {
        let read = |path: &Path| -> io::Result<Vec<u8>> { panic!("it reads {}", path.display()) };
        parse_project(PROJECT_FILE, &Path::new("/p").join(folder), text, &read)
            .unwrap_or_else(|problems| panic!("{problems}\n{text}"))
    }

    #[test]
    fn every_combination_of_presets_is_a_valid_file() {
        let all = Preset::value_variants();
        for chosen in 0..1_u32 << all.len() {
            let presets: BTreeSet<Preset> =
                all.iter().enumerate().filter(|(i, _)| chosen >> i & 1 == 1).map(|(_, preset)| *preset).collect();
            for (runtime, expected) in [(RuntimeChoice::Runsc, Runtime::Runsc), (RuntimeChoice::Runc, Runtime::Runc)] {
                let text = template("My Project", runtime, &presets);
                let project = parse("My Project", &text);
                let ProjectKind::Sandbox(sandbox) = project.kind else { panic!("{text}") };
                assert_eq!(sandbox.runtime, expected);
                let contents: Vec<Contents> = presets.iter().map(|preset| preset.contents()).collect();
                let hosts: usize = contents.iter().map(|contents| contents.hosts.len()).sum();
                assert_eq!(project.upstreams.len(), hosts);
                assert_eq!(sandbox.env.len(), contents.iter().filter(|contents| contents.token.is_some()).count());
                // A token is good for nothing that cannot be reached.
                for value in sandbox.env.values() {
                    let EnvValue::Token { hosts, .. } = value else { panic!("{value:?}") };
                    assert!(hosts.iter().all(|host| project.upstreams.contains_key(host)), "{hosts:?}");
                }
                // What is commented out is right, too: settings by themselves, and the vault's entries.
                let settings: String = text
                    .lines()
                    .map(|line| match line.strip_prefix('#') {
                        Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
                        _ => format!("{line}\n"),
                    })
                    .collect();
                parse("My Project", &settings);
                let vault: String = text
                    .lines()
                    .filter_map(|line| line.strip_prefix("#   "))
                    .fold(String::new(), |text, line| text + line + "\n");
                let vault = parse_vault("vault.toml", &vault).unwrap_or_else(|problems| panic!("{problems}\n{vault}"));
                for host in vault.credentials.keys() {
                    assert!(project.upstreams.contains_key(host), "{host}");
                }
            }
        }
    }

    #[test]
    fn a_folder_whose_name_is_none_gets_one() {
        let text = template("日本", RuntimeChoice::Runsc, &BTreeSet::new());
        assert_eq!(parse("日本", &text).id.as_str(), "sandbox");
        for line in text.lines() {
            assert!(line.chars().count() <= 120, "{line}");
        }
    }

    #[test]
    fn a_file_that_is_there_is_replaced_only_when_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(PROJECT_FILE);
        write(&file, "first", false).unwrap();
        let refused = write(&file, "second", false).unwrap_err().to_string();
        assert!(refused.contains("--force"), "{refused}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "first");
        write(&file, "second", true).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "second");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
        // A link to elsewhere is not followed.
        let link = dir.path().join("link.toml");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &link).unwrap();
        assert!(write(&link, "x", false).is_err());
        assert!(!dir.path().join("elsewhere").exists());
    }
}
