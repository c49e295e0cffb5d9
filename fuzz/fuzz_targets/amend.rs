//! Files out of pieces that mean something, and a request that they may refuse: the edit that allows it is read again, keeps every
//! comment, and leaves nothing to edit.
#![no_main]

use std::io;
use std::path::Path;

use agent_creds::config::{AmendError, Refused, amend, parse_project};
use libfuzzer_sys::fuzz_target;

const PIECES: [&str; 40] = [
    "[gateway]\nlisten = \"127.0.0.1:1\"\n",
    "[sandbox]\nname = \"box\"\n",
    "[upstream.\"api.example\"]\n",
    "[upstream.'api.example']\n",
    "[upstream.\"API.example.\"]\n",
    "[upstream.\"*.wild.example\"]\n",
    "[upstream]\n",
    "[ upstream . \"api.example\" ] # mine\n",
    "upstream.\"api.example\".methods = ",
    "upstream.\"api.example\" = ",
    "upstream = ",
    "\"api.example\" = ",
    "\"*.wild.example\" = ",
    "\"api.example\".paths = ",
    "methods = ",
    "paths = ",
    "redact = false",
    "address = \"10.0.0.7:443\"",
    "private = true",
    "[",
    "]",
    "{",
    "}",
    "{}",
    "[]",
    ", ",
    ",",
    "\"GET\"",
    "'get'",
    "\"POST\"",
    "\"/v1/**\"",
    "\"/\"",
    "\"\"\"GET\"\"\"",
    "\n",
    "\r\n",
    " ",
    "\t",
    "    ",
    "# a comment\n",
    "# ] } \"\n",
];
const HOSTS: [&str; 4] = ["api.example", "a.wild.example", "new.example", "API.example"];
const METHODS: [&str; 3] = ["GET", "POST", "DELETE"];
const PATHS: [&str; 4] = ["/v1/a", "/", "/v2/b%20c", "/v2/**"];

fuzz_target!(|input: (u8, &[u8])| {
    let (choice, pieces) = input;
    let choice = usize::from(choice);
    let text: String = pieces.iter().map(|piece| PIECES[usize::from(*piece) % PIECES.len()]).collect();
    let read = |_: &Path| -> io::Result<Vec<u8>> { Err(io::ErrorKind::NotFound.into()) };
    let host = HOSTS[choice % 4].to_owned();
    let request = (choice & 0x80 == 0).then(|| (METHODS[choice / 4 % 3].to_owned(), PATHS[choice / 12 % 4].to_owned()));
    let refused = Refused { host, request };
    let edit = |text: &str| amend("agent-creds.toml", Path::new("/project"), text, &read, &refused);
    let good = parse_project("agent-creds.toml", Path::new("/project"), &text, &read).is_ok();
    match edit(&text) {
        Ok(amended) => {
            assert!(good);
            assert!(parse_project("agent-creds.toml", Path::new("/project"), &amended, &read).is_ok(), "{amended}");
            assert!(matches!(edit(&amended), Err(AmendError::Allowed)), "{amended}");
            for comment in ["# a comment", "# ] } \"", "# mine"] {
                assert_eq!(text.matches(comment).count(), amended.matches(comment).count(), "{amended}");
            }
            assert!(amended.len() > text.len() && amended.len() < text.len() + 300, "{amended}");
        }
        Err(AmendError::Broken(_)) => assert!(!good, "{text}"),
        Err(AmendError::Form(why)) => {
            assert!(!why.starts_with("it would") && why != "something else would change", "{why}: {text}")
        }
        Err(AmendError::Allowed | AmendError::NotHere(_)) => assert!(good),
    }
});
