//! More programs, and what each shows when it is refused: people have to be able to read it.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{IntoSocket, PUBLIC, off_runtime, prepare_names, sdk};
use crate::support::netns::{Netns, inside};
use crate::support::pki::TestCa;
use crate::support::server::{ANTHROPIC_KEY, OPENAI_KEY, Output, STRIPE_KEY, Server, WorldConfig, run};
use crate::support::upstream::{Upstream, UpstreamConfig};

const HOSTS: [&str; 7] = [
    "api.stripe.com",
    "api.openai.com",
    "api.anthropic.com",
    "api.example.com",
    "api.github.com",
    "github.com",
    "storage.googleapis.com",
];
const GITHUB_KEY: &str = "ghp_ac8Wq3Nd6xTz1LrVbM5kHs92";
const GOOGLE_KEY: &str = "ya29.ac4Rt7Yp2cJf9GuXoE1mBk63";

const VAULT: &str = r#"
[credentials."api.stripe.com"]
type = "bearer"
token = { provider = "env", name = "STRIPE_API_KEY" }

[credentials."api.openai.com"]
type = "bearer"
token = { provider = "env", name = "OPENAI_API_KEY" }

[credentials."api.anthropic.com"]
type = "header"
name = "x-api-key"
value = { provider = "env", name = "ANTHROPIC_API_KEY" }

[credentials."api.example.com"]
type = "bearer"
token = { provider = "env", name = "STRIPE_API_KEY" }

[credentials."api.github.com"]
type = "bearer"
token = { provider = "env", name = "GITHUB_KEY" }

[credentials."github.com"]
type = "basic"
username = { provider = "env", name = "GITHUB_USER" }
password = { provider = "env", name = "GITHUB_KEY" }

[credentials."storage.googleapis.com"]
type = "bearer"
token = { provider = "env", name = "GOOGLE_KEY" }
"#;

/// The world that all programs of this file run in.
struct World<'a> {
    netns: &'a Netns,
    server: &'a Server,
    upstream: &'a Upstream,
    folder: &'a Path,
}

#[test]
fn more_programs_work_unmodified_and_their_refusals_can_be_read() {
    let test = "sdk::programs::more_programs_work_unmodified_and_their_refusals_can_be_read";
    inside(test, &HOSTS, async |netns| {
        let folder = tempfile::tempdir().unwrap();
        prepare_names(folder.path(), &HOSTS);
        let config = UpstreamConfig::new(&HOSTS).files(folder.path()).listen((PUBLIC, 443).into_socket());
        let upstream = Upstream::with(config).await;
        let sections: String = HOSTS.iter().map(|host| format!("[upstream.\"{host}\"]\n")).collect();
        let config = WorldConfig::new(sections).listen(netns.gateway()).vault(VAULT).system_ca(TestCa::shared().pem());
        let config = config.env("GITHUB_KEY", GITHUB_KEY).env("GITHUB_USER", "octo").env("GOOGLE_KEY", GOOGLE_KEY);
        let mut server = Server::start(config).await;
        let world = World { netns: &netns, server: &server, upstream: &upstream, folder: folder.path() };
        world.sdks_show_refusals().await;
        world.requests_and_httpx().await;
        world.google_cloud_storage().await;
        world.gh().await;
        world.git().await;
        server.stop().await;
    });
}

/// One that is good for everything and over.
const EXPIRED: [&str; 4] = ["--not-before", "2020-01-01T00:00:00Z", "--valid-for", "1h"];

impl World<'_> {
    async fn python(&self, script: &str, env: &[(&str, &str)]) -> Value {
        let said = sdk(self.netns, script, &self.server.state_dir().join("ca/ca.pem"), env).await;
        eprintln!("{script}: {said:#}");
        said
    }

    /// How many requests were refused so far.
    async fn refusals(&self) -> f64 {
        self.server.metric("agent_creds_checks_total", &["decision=\"deny\""]).await
    }

    /// Every request since the last [`Upstream::clear`] came with this credential, and none with a token.
    fn assert_swapped(&self, header: &str, credential: &str) {
        let requests = self.upstream.requests();
        assert!(!requests.is_empty());
        for request in requests {
            assert_eq!(request.header(header).as_deref(), Some(credential), "{request:?}");
            assert!(!request.contains("acm_"), "a token travelled on: {request:?}");
        }
    }

    async fn sdks_show_refusals(&self) {
        let (narrow, expired) = (self.server.token(&["--methods", "GET"]), self.server.token(&EXPIRED));
        self.upstream.clear();
        let before = self.refusals().await;
        let seen = self.python("refusals.py", &[("NARROW", &narrow), ("EXPIRED", &expired)]).await;
        let seen = seen.as_object().unwrap();
        for (name, shown) in seen {
            let shown = shown.as_str().unwrap();
            let reason = if name.contains("expired") {
                "Unauthorized: token expired at 2020"
            } else {
                "Unauthorized: method not allowed: POST"
            };
            assert!(shown.contains(reason) && shown.contains("mint --hosts api."), "{name}: {shown}");
            assert!(!shown.contains("acm_"), "{name}: {shown}");
        }
        // Each was refused once: none tried again.
        assert_eq!(self.refusals().await - before, seen.len() as f64, "{seen:?}");
        assert_eq!(self.upstream.requests().len(), 0);
        let keys = [STRIPE_KEY, OPENAI_KEY, ANTHROPIC_KEY, narrow.as_str(), expired.as_str()];
        let shown = format!("{seen:?}");
        assert!(keys.iter().all(|key| !shown.contains(key)), "{shown}");
    }

    async fn requests_and_httpx(&self) {
        self.upstream.clear();
        let token = self.server.token(&["--hosts", "api.example.com", "--methods", "GET,POST"]);
        let seen = self.python("http_clients.py", &[("TOKEN", &token)]).await;
        for library in ["requests", "httpx"] {
            let message = seen[library].as_str().unwrap();
            assert!(message.contains("method not allowed: DELETE") && message.contains("GET,POST,DELETE"), "{message}");
        }
        self.assert_swapped("authorization", &format!("Bearer {STRIPE_KEY}"));
    }

    async fn google_cloud_storage(&self) {
        self.upstream.clear();
        let token = self.server.token(&["--hosts", "storage.googleapis.com", "--methods", "GET,POST,PUT"]);
        let before = self.refusals().await;
        let seen = self.python("storage_sdk.py", &[("TOKEN", &token), ("EXPIRED", &self.server.token(&EXPIRED))]).await;
        let seen = seen.as_object().unwrap();
        for (name, shown) in seen {
            let shown = shown.as_str().unwrap();
            let reason = if name.contains("expired") {
                "Unauthorized: token expired"
            } else {
                "Unauthorized: method not allowed: DELETE"
            };
            assert!(shown.contains(reason) && shown.contains("mint --hosts storage.googleapis.com"), "{name}: {shown}");
        }
        // Each was refused once, and beside them what the library asks for by itself: the bucket's description, once.
        let refused = self.refusals().await - before;
        assert!((seen.len() as f64..=seen.len() as f64 + 1.0).contains(&refused), "{refused}: it tried again");
        self.assert_swapped("authorization", &format!("Bearer {GOOGLE_KEY}"));
    }

    async fn run(&self, program: &str, arguments: &[&str], env: &[(&str, &str)]) -> Output {
        let ca_file = self.server.state_dir().join("ca/ca.pem");
        let mut command: Command = self.netns.client_command(program);
        command.args(arguments).envs(env.iter().copied()).env("HOME", self.folder);
        command.env("SSL_CERT_FILE", &ca_file).env("GIT_SSL_CAINFO", &ca_file).env("GIT_TERMINAL_PROMPT", "0");
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("NO_COLOR", "1");
        off_runtime(command).await
    }

    async fn gh(&self) {
        self.upstream.clear();
        let token = self.server.token(&["--hosts", "api.github.com"]);
        for (arguments, said) in [
            (&["api", "repos/octo/hello", "--jq", ".full_name"][..], "octo/hello\n"),
            (&["api", "-X", "POST", "repos/octo/hello/issues", "-f", "title=x", "--jq", ".number"], "8\n"),
            (&["repo", "view", "octo/hello", "--json", "name,description", "--jq", ".description"], "A test\n"),
            (
                &["issue", "list", "--repo", "octo/hello", "--json", "number,title", "--jq", ".[].title"],
                "The key stays outside\n",
            ),
        ] {
            let output = self.run("gh", arguments, &[("GH_TOKEN", &token)]).await;
            assert!(output.status.success() && output.stdout == said, "{arguments:?}: {output:#?}");
        }
        self.assert_swapped("authorization", &format!("Bearer {GITHUB_KEY}"));

        let (narrow, expired) = (self.server.token(&["--methods", "GET"]), self.server.token(&EXPIRED));
        self.upstream.clear();
        let before = self.refusals().await;
        let cases = [
            (
                &["api", "-X", "POST", "repos/octo/hello/issues", "-f", "title=x"][..],
                &narrow,
                "(HTTP 403)",
                "method not allowed: POST",
            ),
            (&["issue", "list", "--repo", "octo/hello"], &narrow, "HTTP 403", "method not allowed: POST"),
            (&["api", "repos/octo/hello"], &expired, "(HTTP 401)", "token expired at 2020"),
        ];
        for (arguments, token, status, reason) in cases {
            let output = self.run("gh", arguments, &[("GH_TOKEN", token)]).await;
            eprintln!("gh {arguments:?}: {}", output.stderr);
            assert!(!output.status.success(), "{output:?}");
            for part in [status, reason, "mint --hosts api.github.com"] {
                assert!(output.stderr.contains(part), "{arguments:?}: {part} is not in {}", output.stderr);
            }
        }
        assert_eq!((self.refusals().await - before, self.upstream.requests().len()), (cases.len() as f64, 0));
    }

    /// Clone, push and fetch by git's own protocol; the token is the password, in a URL or from a helper.
    async fn git(&self) {
        repository(self.folder);
        let token = self.server.token(&["--hosts", "github.com"]);
        let url = |token: &str| format!("https://x-access-token:{token}@github.com/octo/hello.git");
        // The folder of a command does not go with it into another namespace.
        let within = ["-C", self.folder.to_str().unwrap()];
        let identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"];
        self.upstream.clear();
        let git = async |arguments: &[&str]| {
            let output = self.run("git", &[&within[..], &identity, arguments].concat(), &[]).await;
            assert!(output.status.success(), "git {arguments:?}: {output:#?}");
            output
        };
        git(&["clone", "-q", &url(&token), "clone"]).await;
        std::fs::write(self.folder.join("clone/file"), vec![b'x'; 3_000_000]).unwrap();
        git(&["-C", "clone", "add", "file"]).await;
        git(&["-C", "clone", "commit", "-q", "-m", "two"]).await;
        git(&["-C", "clone", "push", "-q", "origin", "HEAD"]).await;
        git(&["-C", "clone", "fetch", "-q"]).await;
        let log =
            run(Command::new("git").args(["-C", "octo/hello.git", "log", "--format=%s"]).current_dir(self.folder));
        assert_eq!(log.stdout, "two\none\n", "{log:?}");
        let basic = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("octo:{GITHUB_KEY}"));
        let sent: Vec<_> = self.upstream.requests().iter().filter_map(|request| request.authorization()).collect();
        assert!(sent.len() > 5 && sent.iter().all(|sent| *sent == format!("Basic {basic}")), "{sent:?}");
        assert!(self.upstream.requests().iter().all(|request| !request.contains("acm_")));

        let (expired, elsewhere) = (
            self.server.token(&EXPIRED),
            self.server.token(&["--hosts", "github.com", "--paths", "/octo/other.git/**"]),
        );
        for (token, reason) in
            [(&expired, "token expired at 2020"), (&elsewhere, "path not allowed: /octo/hello.git/info/refs")]
        {
            let output = self.run("git", &[&within[..], &["clone", "-q", &url(token), "refused"]].concat(), &[]).await;
            eprintln!("git clone: {}", output.stderr);
            assert!(!output.status.success(), "{output:?}");
            for part in [
                format!("remote: Unauthorized: {reason}"),
                "remote: Help: ".to_owned(),
                "mint --hosts github.com".to_owned(),
            ] {
                assert!(output.stderr.contains(&part), "{part} is not in {}", output.stderr);
            }
        }
        // Reading is by POST too; what may only read refs is stopped at the second request, of which git shows the status.
        let narrow = self.server.token(&[
            "--hosts",
            "github.com",
            "--paths",
            "/octo/hello.git/info/refs,/octo/hello.git/git-upload-pack",
        ]);
        let output = self
            .run(
                "git",
                &[&within[..], &["-C", "clone", "push", "-q", &url(&narrow), "HEAD:refs/heads/other"]].concat(),
                &[],
            )
            .await;
        eprintln!("git push: {}", output.stderr);
        // Envoy answers before the upload has ended, and ends it: curl may see the one first or the other.
        let seen = ["The requested URL returned error: 403", "curl 92 Stream error"];
        assert!(!output.status.success() && seen.iter().any(|text| output.stderr.contains(text)), "{output:?}");
    }
}

/// A bare repository at `octo/hello.git`, with one commit.
fn repository(folder: &Path) {
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=a", "-c", "user.email=a@example.com"]).args(arguments).current_dir(folder);
        let output = run(command.env("HOME", folder));
        assert!(output.status.success(), "git {arguments:?}: {}", output.stderr);
    };
    git(&["init", "-q", "-b", "main", "work"]);
    git(&["-C", "work", "commit", "-q", "--allow-empty", "-m", "one"]);
    git(&["clone", "-q", "--bare", "work", "octo/hello.git"]);
}
