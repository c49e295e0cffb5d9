//! `actl nodes wait`: until every Envoy has the configuration, or until it is clear that one will not.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::{Client, answer, json, list, table};
use crate::control::client::connect_fleet;
use crate::control::v1::{ListNodesRequest, ListNodesResponse, Node, NodeRejection, ReloadRequest};

/// How often the server is asked.
const LOOK: Duration = Duration::from_millis(20);
/// The most nodes and rejections that are told one by one.
const MOST_TOLD: usize = 20;

#[derive(Debug, Args)]
pub(super) struct Wait {
    /// What they are to have: `current`, which is what the files say now, or the number of a generation
    #[arg(long, value_name = "current|N", default_value = "current")]
    generation: Generation,
    /// How long to wait, as 500ms, 10s or 2m
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    timeout: Duration,
    /// Wait for these nodes, which also have to be connected; default: all that are
    #[arg(long, value_name = "ID", num_args = 1.., value_delimiter = ',')]
    nodes: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Generation {
    Current,
    Number(u64),
}

impl FromStr for Generation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "current" => Ok(Self::Current),
            _ => match text.parse() {
                Ok(number) if number > 0 => Ok(Self::Number(number)),
                _ => Err("`current`, or a number from 1".to_owned()),
            },
        }
    }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit_ms = match unit {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let ms = unit_ms.and_then(|unit| number.parse::<u64>().ok()?.checked_mul(unit));
    // A day is more than anybody waits, and less than what clocks overflow at.
    ms.filter(|ms| *ms <= 86_400_000).map(Duration::from_millis).ok_or_else(|| "a time as 500ms, 10s or 2m".to_owned())
}

/// How the waiting ended.
enum Outcome {
    /// All have it.
    Converged { connected: u64 },
    /// Files are broken, so that they are not what is in force.
    Broken(Vec<String>),
    /// Some said no.
    Rejected(Vec<Node>),
    /// The time was up for these, and for those of these ids, which are not connected.
    Late { behind: Vec<Node>, missing: Vec<String> },
    /// Nobody is connected.
    Nobody,
}

impl Wait {
    pub(super) async fn run(&self, folder: &Path, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let mut client = connect_fleet(folder).await?;
        let end = Instant::now() + self.timeout;
        let (generation, outcome) = match self.generation {
            Generation::Number(number) => (number, self.wait(&mut client, number, end).await?),
            Generation::Current => {
                let reloaded = answer(client.reload(ReloadRequest {})).await?;
                let outcome = if reloaded.problems.is_empty() {
                    self.wait(&mut client, reloaded.generation, end).await?
                } else {
                    Outcome::Broken(reloaded.problems)
                };
                (reloaded.generation, outcome)
            }
        };
        if self.json {
            writeln!(out, "{:#}", outcome.as_json(generation))?;
        } else if let Outcome::Converged { .. } = outcome {
            writeln!(out, "{}", outcome.as_text(generation, self.timeout))?;
        } else {
            writeln!(io::stderr(), "{}", outcome.as_text(generation, self.timeout))?;
        }
        Ok(if matches!(outcome, Outcome::Converged { .. }) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn wait(&self, client: &mut Client, generation: u64, end: Instant) -> anyhow::Result<Outcome> {
        loop {
            let request = ListNodesRequest { ids: self.nodes.clone(), without_generation: generation };
            let found = list(client, request).await?;
            if let Some(outcome) = judge(&found, generation, Instant::now() >= end) {
                return Ok(outcome);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// What there is to say of an answer; `None` when it is worth to wait for another one.
fn judge(found: &ListNodesResponse, generation: u64, is_over: bool) -> Option<Outcome> {
    // A node that has not been told yet may still be at the rejection of an earlier generation.
    let has_rejected = |node: &&Node| {
        let told = node.streams.iter().filter(|stream| stream.told_generation >= generation);
        told.flat_map(|stream| &stream.types).any(|of_type| of_type.rejection.is_some())
    };
    let rejecting: Vec<_> = found.nodes.iter().filter(has_rejected).cloned().collect();
    if !rejecting.is_empty() {
        return Some(Outcome::Rejected(rejecting));
    }
    if found.connected > 0 && found.nodes.is_empty() && found.missing.is_empty() {
        return Some(Outcome::Converged { connected: found.connected });
    }
    if !is_over {
        return None;
    }
    Some(if found.connected == 0 && found.missing.is_empty() {
        Outcome::Nobody
    } else {
        Outcome::Late { behind: found.nodes.clone(), missing: found.missing.clone() }
    })
}

/// The rejections of a node, each with its type.
fn rejections(node: &Node) -> impl Iterator<Item = (&str, &NodeRejection)> {
    let types = node.streams.iter().flat_map(|stream| &stream.types);
    types.filter_map(|of_type| Some((of_type.r#type.as_str(), of_type.rejection.as_ref()?)))
}

impl Outcome {
    fn as_text(&self, generation: u64, timeout: Duration) -> String {
        match self {
            Self::Converged { connected: 1 } => format!("the one Envoy has generation {generation}"),
            Self::Converged { connected } => format!("all {connected} Envoys have generation {generation}"),
            Self::Broken(problems) => {
                let problems: Vec<_> =
                    problems.iter().flat_map(|problem| problem.lines()).map(table::printed).collect();
                format!("{}\nthe files are not in force, generation {generation} still is", problems.join("\n"))
            }
            Self::Rejected(nodes) => {
                let told = nodes.iter().flat_map(|node| rejections(node).map(move |(_, found)| (node, found)));
                let told = told.map(|(node, found)| format!("{}: {}", table::quoted(&node.id), table::told(found)));
                format!("{}\nrejected: generation {generation}", listed(told))
            }
            Self::Late { behind, missing } => {
                let behind_told = behind.iter().map(|node| {
                    let lag = table::lag(node).unwrap_or_else(|| "behind".to_owned());
                    format!("{}: generation {}, {lag}", table::quoted(&node.id), node.generation)
                });
                let missing_told = missing.iter().map(|id| format!("{}: not connected", table::quoted(id)));
                let count = behind.len() + missing.len();
                let who = if count == 1 { "1 Envoy does".to_owned() } else { format!("{count} Envoys do") };
                format!(
                    "{}\n{who} not have generation {generation} after {timeout:?}",
                    listed(behind_told.chain(missing_told))
                )
            }
            Self::Nobody => format!("no Envoy is connected, also after {timeout:?}: `actl nodes` says what to do"),
        }
    }

    fn as_json(&self, generation: u64) -> Value {
        let (result, nodes, missing, problems) = match self {
            Self::Converged { .. } => ("converged", &[][..], &[][..], &[][..]),
            Self::Broken(problems) => ("broken", &[][..], &[][..], problems.as_slice()),
            Self::Rejected(nodes) => ("rejected", nodes.as_slice(), &[][..], &[][..]),
            Self::Late { behind, missing } => ("timeout", behind.as_slice(), missing.as_slice(), &[][..]),
            Self::Nobody => ("nobody", &[][..], &[][..], &[][..]),
        };
        let rejections = nodes.iter().flat_map(|node| {
            rejections(node).map(|(ty, found)| {
                let mut told = json::rejection(found);
                told["node"] = node.id.as_str().into();
                told["type"] = ty.into();
                told
            })
        });
        json!({
            "ok": matches!(self, Self::Converged { .. }),
            "result": result,
            "generation": generation,
            "problems": problems,
            "rejections": rejections.collect::<Vec<_>>(),
            "behind": nodes.iter().map(json::node).collect::<Vec<_>>(),
            "missing": missing,
        })
    }
}

/// A line each, the first ones only when there are many.
fn listed(lines: impl Iterator<Item = String>) -> String {
    let all: Vec<_> = lines.collect();
    let mut shown: Vec<_> = all.iter().take(MOST_TOLD).cloned().collect();
    if all.len() > MOST_TOLD {
        shown.push(format!("… and {} more", all.len() - MOST_TOLD));
    }
    shown.join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::{node, rejecting};
    use super::*;

    fn found(connected: u64, nodes: &[Node], missing: &[&str]) -> ListNodesResponse {
        let missing = missing.iter().map(|&id| id.to_owned()).collect();
        ListNodesResponse { generation: 7, nodes: nodes.to_vec(), connected, missing }
    }

    fn result(found: &ListNodesResponse, generation: u64, is_over: bool) -> Option<String> {
        let outcome = judge(found, generation, is_over)?;
        assert!(!outcome.as_text(generation, Duration::from_secs(10)).is_empty());
        Some(outcome.as_json(generation)["result"].as_str().unwrap().to_owned())
    }

    #[test]
    fn a_rejection_ends_it_once_the_node_has_been_told() {
        let mut said_no = rejecting("a");
        let found_one = |node: &Node| found(1, std::slice::from_ref(node), &[]);
        assert_eq!(result(&found_one(&said_no), 7, false), None, "that was about an earlier one");
        said_no.streams[0].told_generation = 7;
        assert_eq!(result(&found_one(&said_no), 7, false).as_deref(), Some("rejected"));
        let text = judge(&found_one(&said_no), 7, false).unwrap().as_text(7, Duration::from_secs(1));
        assert!(text.starts_with("`a`: agent-creds.toml:4: Error adding/updating cluster(s)"), "{text}");
    }

    #[test]
    fn the_end_says_who_is_late() {
        assert_eq!(result(&found(3, &[], &[]), 7, false).as_deref(), Some("converged"));
        assert_eq!(result(&found(3, &[node("a")], &[]), 7, false), None);
        assert_eq!(result(&found(3, &[node("a")], &[]), 7, true).as_deref(), Some("timeout"));
        assert_eq!(result(&found(3, &[], &["b"]), 7, false), None);
        assert_eq!(result(&found(0, &[], &["b"]), 7, true).as_deref(), Some("timeout"));
        assert_eq!(result(&found(0, &[], &[]), 7, false), None);
        assert_eq!(result(&found(0, &[], &[]), 7, true).as_deref(), Some("nobody"));
        let many: Vec<_> = (0..50).map(|i| node(&format!("n{i}"))).collect();
        let text = judge(&found(50, &many, &[]), 7, true).unwrap().as_text(7, Duration::from_secs(10));
        assert!(
            text.contains("… and 30 more") && text.ends_with("50 Envoys do not have generation 7 after 10s"),
            "{text}"
        );
    }

    #[test]
    fn times_and_generations_are_read() {
        assert_eq!(parse_time("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_time("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["", "10", "s", "-1s", "1d", "99999999999999999999s", "25h"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
        assert_eq!("current".parse(), Ok(Generation::Current));
        assert_eq!("3".parse(), Ok(Generation::Number(3)));
        assert!("0".parse::<Generation>().is_err() && "now".parse::<Generation>().is_err());
    }
}
