//! Man pages of all programs and their commands, from what clap knows of them: `agent-creds man DIR`, used by `make install`.

use std::fs;
use std::path::Path;

use anyhow::Context;
use clap::{Command, CommandFactory};

/// All programs.
fn programs() -> [Command; 6] {
    [
        super::server::command(),
        super::adev::command(),
        super::actl::command(),
        super::mint::Args::command(),
        super::aenv::Args::command(),
        super::cdp_proxy::Args::command(),
    ]
}

/// Writes a page for each program and each of its commands into `dir`, which is made: `adev.1`, `adev-console.1` …
///
/// # Errors
/// When one cannot be written.
pub(super) fn write_all(dir: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for program in programs() {
        let mut program = program.propagate_version(true).disable_help_subcommand(true);
        // Fills in what commands inherit.
        program.build();
        write(&program, dir)?;
    }
    Ok(())
}

fn write(command: &Command, dir: &Path) -> anyhow::Result<()> {
    let man = clap_mangen::Man::new(command.clone()).source(format!("agent-creds {}", env!("CARGO_PKG_VERSION")));
    let path = dir.join(man.get_filename());
    let mut text = Vec::new();
    let written =
        man.render(&mut text).and_then(|()| fs::write(&path, as_it_stands(&String::from_utf8_lossy(&text)) + SEE_ALSO));
    written.with_context(|| format!("cannot write {}", path.display()))?;
    command.get_subcommands().filter(|inner| !inner.is_hide_set()).try_for_each(|inner| write(inner, dir))
}

/// With the examples in lines, as they were written.
fn as_it_stands(page: &str) -> String {
    let Some((before, extra)) = page.split_once(".SH EXTRA\n") else { return page.to_owned() };
    let (extra, after) = extra.split_at(extra.find(".SH ").unwrap_or(extra.len()));
    format!("{before}.SH EXAMPLES AND NOTES\n.nf\n{extra}.fi\n{after}")
}

/// Where messages are explained; `deploy/install.sh` puts the file there.
const SEE_ALSO: &str = ".SH SEE ALSO\nWhat messages mean, and what to do: share/doc/agent\\-creds/errors.md, below the folder of the installation.\n";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::process::Command as Process;

    use super::*;

    fn names(command: &Command, name: &str, all: &mut BTreeSet<String>) {
        all.insert(format!("{name}.1"));
        for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
            names(inner, &format!("{name}-{}", inner.get_name()), all);
        }
    }

    #[test]
    fn every_program_and_every_command_has_a_page_that_renders() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("share/man1");
        write_all(&dir).unwrap();
        let mut expected = BTreeSet::new();
        for program in programs() {
            names(&program, program.get_name(), &mut expected);
        }
        let written: BTreeSet<String> =
            fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(written, expected);
        assert!(expected.contains("actl-log-verify.1") && !expected.contains("adev-detach.1"), "{expected:?}");
        // The typesetter, where there is one, says what of a page it does not understand.
        let has_groff = Process::new("groff").arg("--version").output().is_ok();
        for name in &written {
            let path = dir.join(name);
            let text = fs::read_to_string(&path).unwrap();
            let title = name.trim_end_matches(".1");
            assert!(text.contains(&format!(".TH {title} 1")), "{name}: {text}");
            assert!(
                !text.contains(".SH EXTRA") && text.matches("\n.nf").count() == text.matches("\n.fi").count(),
                "{text}"
            );
            for section in [".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION", ".SH SEE ALSO"] {
                assert!(text.contains(section), "{name} has no {section}");
            }
            let known = ["TH", "SH", "PP", "TP", "RS", "RE", "IP", "br", "ie", "el", "SS", "ds", "nf", "fi"];
            for line in text.lines().filter(|line| line.starts_with('.')) {
                let request = line[1..].split([' ', '\\']).next().unwrap();
                assert!(known.contains(&request) || request.is_empty(), "{name}: {line}");
            }
            if has_groff {
                let output =
                    Process::new("groff").args(["-man", "-ww", "-z", "-Tutf8", "-k"]).arg(&path).output().unwrap();
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success() && said.is_empty(), "{name}: {said}");
            }
        }
    }
}
