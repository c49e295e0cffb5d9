//! Starting the host's browser: `$BROWSER`, else what the platform has.
//!
//! `$BROWSER` is a list of commands, with `:` between them, each tried until one works. Words are split at spaces; `%s` is the URL
//! (which is the last word when there is no `%s`), `%c` a colon, `%%` a `%`. No shell is asked, so nothing in a URL means
//! anything but itself; and it begins with `http`, so it is no option.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::domain::web::WebUrl;

/// A command that goes on after this long is a browser that shows the page.
const PATIENCE: Duration = Duration::from_secs(2);
/// No more of a list is tried, so that an answer comes in time.
const MOST: usize = 8;

#[cfg(target_os = "macos")]
const PLATFORM: &str = "open";
#[cfg(not(target_os = "macos"))]
const PLATFORM: &str = "xdg-open";

/// Starts the host's browser.
#[derive(Debug, Clone)]
pub struct Opener {
    commands: Vec<Vec<String>>,
    /// Whether they are of `$BROWSER`.
    chosen: bool,
}

/// Why no browser was started: each command, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no browser could be started on the host: {}. {}", tried.join("; "), advice(*.chosen))]
pub struct OpenerError {
    tried: Vec<String>,
    chosen: bool,
}

fn advice(chosen: bool) -> &'static str {
    if chosen {
        "BROWSER, in the environment of the server, has to name a program that opens the URL it is given"
    } else {
        "Set BROWSER for the server (`adev stop --all`, end it, and start it with BROWSER set), or install xdg-utils and a browser"
    }
}

impl Opener {
    /// With the value of `BROWSER`, if it is set.
    pub fn new(browser: Option<&str>) -> Self {
        let words = |command: &str| -> Vec<String> {
            let mut words: Vec<String> = command.split_ascii_whitespace().map(str::to_owned).collect();
            // Some say so that they want it in the background, where it is anyway.
            words.pop_if(|last| last == "&");
            words
        };
        let commands: Vec<_> =
            browser.unwrap_or_default().split(':').map(words).filter(|words| !words.is_empty()).collect();
        let chosen = !commands.is_empty();
        Self { commands: if chosen { commands } else { vec![vec![PLATFORM.to_owned()]] }, chosen }
    }

    /// Opens a page. The browser gets this process's environment but for the variables in `without`.
    ///
    /// # Errors
    /// When no command could be started, or all of them failed at once.
    pub async fn open(&self, url: &WebUrl, without: &[String]) -> Result<(), OpenerError> {
        let mut tried = Vec::new();
        for words in self.commands.iter().take(MOST) {
            match start(words, url, without).await {
                Ok(()) => return Ok(()),
                Err(what) => tried.push(format!("{}: {what}", words[0])),
            }
        }
        Err(OpenerError { tried, chosen: self.chosen })
    }
}

async fn start(words: &[String], url: &WebUrl, without: &[String]) -> Result<(), String> {
    let arguments = arguments(&words[1..], url.as_str());
    let mut command = Command::new(&words[0]);
    command.args(arguments).current_dir("/").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    for name in without {
        command.env_remove(name);
    }
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    match tokio::time::timeout(PATIENCE, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(status.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => {
            // It stays as long as the user has it open, and is reaped then.
            tokio::spawn(async move { child.wait().await });
            Ok(())
        }
    }
}

/// The words with the URL in its place.
fn arguments(words: &[String], url: &str) -> Vec<String> {
    let mut placed = false;
    let mut arguments: Vec<String> = Vec::with_capacity(words.len() + 1);
    for word in words {
        let mut argument = String::new();
        let mut rest = word.as_str();
        while let Some(at) = rest.find('%') {
            argument.push_str(&rest[..at]);
            let (text, length) = match rest.as_bytes().get(at + 1) {
                Some(b's') => {
                    placed = true;
                    (url, 2)
                }
                Some(b'c') => (":", 2),
                Some(b'%') => ("%", 2),
                _ => ("%", 1),
            };
            argument.push_str(text);
            rest = &rest[at + length..];
        }
        argument.push_str(rest);
        arguments.push(argument);
    }
    if !placed {
        arguments.push(url.to_owned());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    const URL: &str = "https://h.example/a?b=%s&c=$(id)";

    #[test]
    fn a_list_is_read_as_the_convention_has_it() {
        let commands = |browser: &str| Opener::new(Some(browser)).commands;
        assert_eq!(
            commands("firefox --new-window %s:chromium &"),
            [vec!["firefox", "--new-window", "%s"], vec!["chromium"]]
        );
        assert_eq!(commands(":: :firefox"), [vec!["firefox"]]);
        assert_eq!(Opener::new(None).commands, [vec![PLATFORM]]);
        assert_eq!(commands(""), [vec![PLATFORM]]);
        let placed = |words: &[&str]| arguments(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>(), URL);
        assert_eq!(placed(&[]), [URL]);
        assert_eq!(placed(&["-a", "--url=%s", "-b"]), ["-a", &format!("--url={URL}"), "-b"]);
        assert_eq!(placed(&["100%%", "%c", "%x", "%"]), ["100%", ":", "%x", "%", URL]);
    }

    fn script(dir: &Path, name: &str, body: &str) -> String {
        let path = dir.join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    }

    #[tokio::test]
    async fn the_url_is_one_argument_and_the_first_that_works_is_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let said = dir.path().join("said");
        let fails = script(dir.path(), "fails", "exit 3");
        let body = format!(
            "printf '%s|' \"$#\" \"$@\" \"${{SECRET_OF_TEST-none}}\" \"$PWD\" >{0}.new; mv {0}.new {0}",
            said.display()
        );
        let works = script(dir.path(), "works", &body);
        let never = script(dir.path(), "never", &format!("touch {}/never-ran", dir.path().display()));
        let url = WebUrl::parse(URL).unwrap();
        let opener = Opener::new(Some(&format!("/no/such/browser:{fails}:{works} -n:{never}")));
        // A variable that every process has.
        opener.open(&url, &["HOME".to_owned()]).await.unwrap();
        assert_eq!(fs::read_to_string(&said).unwrap(), format!("2|-n|{URL}|none|/|"));
        assert!(!dir.path().join("never-ran").exists());

        let error = Opener::new(Some(&format!("/no/such/browser:{fails}"))).open(&url, &[]).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("/no/such/browser: No such file")
                && text.contains("exit status: 3")
                && text.contains("BROWSER"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_browser_that_stays_is_left_alone_and_variables_stay_behind() {
        let dir = tempfile::tempdir().unwrap();
        let body = format!("echo \"${{PATH-none}}\" >{0}/said; echo $$ >{0}/pid; exec sleep 60", dir.path().display());
        let stays = script(dir.path(), "stays", &body);
        let url = WebUrl::parse(URL).unwrap();
        Opener::new(Some(&stays)).open(&url, &["PATH".to_owned()]).await.unwrap();
        // dash sets PATH by itself when it has none, and it is not the one of this process.
        let said = fs::read_to_string(dir.path().join("said")).unwrap();
        assert_ne!(said.trim(), std::env::var("PATH").unwrap());
        let pid: i32 = fs::read_to_string(dir.path().join("pid")).unwrap().trim().parse().unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}
