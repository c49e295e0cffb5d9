//! What is no message of something that went wrong, by file, with the reason.

/// Files whose texts are none, but for those that are in a call that tells of an error (`TELLS`).
pub const FILES: &[(&str, &str)] = &[
    ("src/cli/actl/tui/items.rs", "names of what is shown"),
    ("src/cli/actl/tui/view.rs", "names of what is shown, and of keys"),
    ("src/cli/adev/events.rs", "how events are written"),
    ("src/cli/adev/init.rs", "the file that it writes, and what it asks"),
    ("src/cli/adev/tui/view.rs", "names of what is shown, and of keys"),
    ("src/cli/aenv/show.rs", "what may be reached"),
    ("src/cli/caveats.rs", "what a token allows"),
    ("src/cli/fleet/table.rs", "names of what is shown"),
    ("src/cli/issued.rs", "the list of tokens"),
    ("src/cli/keys.rs", "the list of keys"),
    ("src/cli/man.rs", "the form of man pages"),
    ("src/cli/tui/entry.rs", "how events are written"),
    ("src/domain/macaroon/caveat.rs", "what a token allows"),
    ("src/host/metrics.rs", "names of metrics"),
    ("src/metrics.rs", "names of metrics"),
    ("src/sandbox/network/filter.rs", "what is given to `tc`"),
    ("src/sandbox/network/nft.rs", "what is given to `nft`"),
    ("src/server/credentials/report.rs", "names of metrics"),
    ("src/server/nodes/metrics.rs", "names of metrics"),
    ("src/server/sandboxes/changes.rs", "what an edit changed"),
    ("src/vault/metrics.rs", "names of metrics"),
    ("src/xds/metrics.rs", "names of metrics"),
    ("src/xds/service/gauges.rs", "names of metrics"),
];

const WELL: &str = "says that all went well";
const PART: &str = "a word of a message, which is documented with it";
const FORM: &str = "the form of a file or an answer";
const NAME: &str = "a name that is given to something";

/// Messages that say nothing of an error, by file.
pub const MESSAGES: &[(&str, &[&str], &str)] = &[
    ("src/cli/actl.rs", &["records, none missing, altered or put in"], WELL),
    ("src/cli/actl.rs", &["[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"], FORM),
    ("src/cli/actl/tui/app.rs", &["revoked …: the server refuses it within a second", "looking at the file"], WELL),
    ("src/cli/actl/tui/app.rs", &["stays as it is"], "what was asked for, when the answer is no"),
    ("src/cli/actl/tui/feed.rs", &["is allowed now (generation …): wrote"], WELL),
    (
        "src/cli/adev/attach.rs",
        &[
            "left; what runs goes on in the sandbox …, and `adev console …` opens another shell. `adev stop …` ends it",
            "the sandbox … keeps running; `adev stop …` ends it",
            "the sandbox … was stopped",
        ],
        WELL,
    ),
    ("src/cli/adev/mod.rs", &["stopping all sandboxes"], WELL),
    ("src/cli/aenv.rs", &["Opens a page in the host's browser: aenv open"], "the help of a command"),
    ("src/cli/doctor.rs", &["nothing is in the way"], WELL),
    ("src/cli/doctor.rs", &["the state folder"], NAME),
    ("src/cli/doctor/files.rs", &["CA trust"], NAME),
    ("src/cli/doctor/files.rs", &["chmod go-w"], "the command that mends what is documented"),
    ("src/cli/doctor/host.rs", &["and no"], PART),
    ("src/cli/doctor/host.rs", &["-A ufw-user-input -i ac"], FORM),
    ("src/cli/fleet/wait.rs", &["all … Envoys have generation", "the one Envoy has generation"], WELL),
    (
        "src/cli/nodes.rs",
        &[
            "is the node … of the gateway …; start its Envoy with",
            "is the server …, as the gateway … of this one; put it there as",
            "and name this vault in its projects' agent-creds.toml",
        ],
        WELL,
    ),
    ("src/cli/aenv/why.rs", &["is swapped for the real key, if the vault … has one for …, and allows this"], WELL),
    ("src/cli/secret.rs", &["secret `…` (not shown)"], "a question"),
    (
        "src/cli/server.rs",
        &[
            "Clients that are to use the gateway trust this certificate, for example",
            "export SSL_CERT_FILE=",
            "file(s) checked: no errors",
        ],
        WELL,
    ),
    ("src/cli/status.rs", &["all is well", "connected as … (gateway …), certificate for"], WELL),
    ("src/domain/decision/remedy.rs", &["on the host"], PART),
    ("src/config/vault.rs", &["{ x-api-key = { provider = \"env\", name = \"EXAMPLE_API_KEY\" } }"], PART),
    ("src/config/vault/providers.rs", &["{ provider = \"env\", name = \"STRIPE_API_KEY\" }"], PART),
    (
        "src/host/callback/answer.rs",
        &[
            "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
        ],
        FORM,
    ),
    ("src/host/cdp/filter/scripts.rs", &["if (…) throw \"agent-creds: this script may not run here\""], FORM),
    ("src/pki/ca.rs", &["agent-creds … CA"], NAME),
    ("src/pki/leaf.rs", &["agent-creds leaf"], NAME),
    ("src/pki/node.rs", &["agent-creds server"], NAME),
    ("src/server/auditing.rs", &["Records of the audit log, by what became of them"], NAME),
    (
        "src/server/browser.rs",
        &[
            "a sign-in came back to … and was carried into the sandbox",
            "a sign-in that comes back to … is carried into the sandbox",
            "opened … in the host's browser",
        ],
        WELL,
    ),
    ("src/server/sandboxes.rs", &["Sandboxes by state"], NAME),
    ("src/server/sandboxes.rs", &["its file was accepted as it is now"], WELL),
    ("src/server/sandboxes/adopt.rs", &["taken up: it was running already"], WELL),
    ("src/server/sandboxes/inside.rs", &["options timeout:2 attempts:2"], FORM),
    ("src/server/nodes/enrol.rs", &["agent-creds nodes enrol, for the node"], NAME),
    ("src/server/shared.rs", &["Whether a shared vault that a project names answers"], NAME),
    ("src/server/sandboxes/tokens.rs", &["adev, as … of"], NAME),
    ("src/state/tokens.rs", &["WHERE token.id = ?1"], "a question to a database"),
    ("src/vault/refusal.rs", &["<?xml version=\"1.0\" encoding=\"UTF-8\"?>"], FORM),
    ("src/vault/refusal.rs", &["Basic realm=\"agent-creds\"", "Bearer realm=\"agent-creds\""], FORM),
    ("src/vault/request.rs", &["HTTP request"], PART),
];

/// Whether a message is among them.
pub fn is(file: &str, message: &str) -> bool {
    MESSAGES.iter().any(|(excluded, messages, _)| *excluded == file && messages.contains(&message))
}
