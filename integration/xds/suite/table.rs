//! Outcomes as a table for people, and as JSON for programs.

use std::fmt::Write;

use serde_json::{Value, json};

use super::wire::Proto;
use super::{CASES, Failure, Outcome, Step, Variant};

fn word(result: &Step) -> &'static str {
    match result {
        Ok(()) => "ok",
        Err(Failure::Fail(_)) => "FAIL",
        Err(Failure::NotApplicable(_)) => "n.a.",
        Err(Failure::NeedsControl) => "control",
    }
}

/// One line a case, one column a variant, and below what has to be said about it.
pub fn text(outcomes: &[Outcome]) -> String {
    let mut text = format!("{:>2}  {:<78}", "", "case");
    for variant in Variant::ALL {
        let _ = write!(text, " {:>11}", variant.label());
    }
    text.push('\n');
    for case in CASES {
        let of_case: Vec<_> = outcomes.iter().filter(|outcome| outcome.case == case.number).collect();
        if of_case.is_empty() {
            continue;
        }
        let _ = write!(text, "{:>2}  {:<78}", case.number, case.title);
        for variant in Variant::ALL {
            let outcome = of_case.iter().find(|outcome| outcome.variant == variant);
            let _ = write!(text, " {:>11}", outcome.map_or("-", |outcome| word(&outcome.result)));
        }
        text.push('\n');
    }
    let mut notes = Vec::new();
    for outcome in outcomes {
        let note = match &outcome.result {
            Err(Failure::Fail(why)) => format!("case {} {}: {why}", outcome.case, outcome.variant.label()),
            Err(Failure::NotApplicable(why)) => format!("case {} n.a. for {}: {why}", outcome.case, which(outcome)),
            Err(Failure::NeedsControl) => "control: the case edits what is served, which needs --control".to_owned(),
            Ok(()) => continue,
        };
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    text.push('\n');
    for note in notes {
        let _ = writeln!(text, "{note}");
    }
    for variant in Variant::ALL {
        let of_variant = outcomes.iter().filter(|outcome| outcome.variant == variant);
        let (mut passed, mut applicable) = (0, 0);
        for outcome in of_variant {
            passed += usize::from(outcome.result.is_ok());
            applicable += usize::from(!matches!(outcome.result, Err(Failure::NotApplicable(_))));
        }
        if applicable > 0 {
            let _ = writeln!(text, "{:<11} {passed} of the {applicable} cases that apply", variant.label());
        }
    }
    text
}

/// What a case is not for.
fn which(outcome: &Outcome) -> &'static str {
    match (outcome.variant.proto, outcome.variant.aggregated) {
        _ if ONE_PROTOCOL.contains(&outcome.case) => match outcome.variant.proto {
            Proto::Sotw => "sotw",
            Proto::Delta => "delta",
        },
        (_, true) => "aggregated streams",
        (_, false) => "streams of one type",
    }
}

/// The cases that are for one variant of the protocol alone.
const ONE_PROTOCOL: [u8; 6] = [1, 2, 8, 13, 15, 28];

/// An array of outcomes.
pub fn json(outcomes: &[Outcome]) -> Value {
    outcomes
        .iter()
        .map(|outcome| {
            let why = match &outcome.result {
                Err(Failure::Fail(why)) => json!(why),
                Err(Failure::NotApplicable(why)) => json!(why),
                Ok(()) | Err(Failure::NeedsControl) => Value::Null,
            };
            let title = CASES.iter().find(|case| case.number == outcome.case).map(|case| case.title);
            json!({
                "case": outcome.case,
                "title": title,
                "variant": outcome.variant.label(),
                "result": word(&outcome.result),
                "why": why,
            })
        })
        .collect()
}
