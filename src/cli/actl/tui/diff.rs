//! What an edit changes, line by line.

/// The lines around a change that are shown.
const AROUND: usize = 3;
/// Above so many pairs of lines, what is between the first and the last change is shown as changed.
const MOST_PAIRS: usize = 1_000_000;

/// A line of a diff.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// So many lines are left out here.
    Skipped(usize),
    /// It stays.
    Same(String),
    /// It goes.
    Removed(String),
    /// It is new.
    Added(String),
}

/// What has to be done to `before` to have `after`.
pub(super) fn diff(before: &str, after: &str) -> Vec<Line> {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let same = |lines: &[&str]| lines.iter().map(|line| Line::Same((*line).to_owned())).collect::<Vec<_>>();
    let mut all = same(&old[..head]);
    all.extend(between(&old[head..old.len() - tail], &new[head..new.len() - tail]));
    all.extend(same(&old[old.len() - tail..]));
    shortened(all)
}

/// By the longest common subsequence.
fn between(old: &[&str], new: &[&str]) -> Vec<Line> {
    let removed = |line: &&str| Line::Removed((*line).to_owned());
    let added = |line: &&str| Line::Added((*line).to_owned());
    if old.len() * new.len() > MOST_PAIRS {
        return old.iter().map(removed).chain(new.iter().map(added)).collect();
    }
    // How many lines are common to the rest of both, from each pair of places on.
    let mut common = vec![vec![0_u32; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] = match old[i] == new[j] {
                true => common[i + 1][j + 1] + 1,
                false => common[i + 1][j].max(common[i][j + 1]),
            };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push(Line::Same(old[i].to_owned()));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]) {
            lines.push(removed(&old[i]));
            i += 1;
        } else {
            lines.push(added(&new[j]));
            j += 1;
        }
    }
    lines
}

/// Without the lines that are far from every change.
fn shortened(lines: Vec<Line>) -> Vec<Line> {
    let changed: Vec<usize> = (0..lines.len()).filter(|&at| !matches!(lines[at], Line::Same(_))).collect();
    let near = |at: usize| {
        let next = changed.partition_point(|&change| change + AROUND < at);
        changed.get(next).is_some_and(|&change| change <= at + AROUND)
    };
    let mut shown = Vec::new();
    for (at, line) in lines.into_iter().enumerate() {
        match shown.last_mut() {
            _ if near(at) => shown.push(line),
            Some(Line::Skipped(count)) => *count += 1,
            _ => shown.push(Line::Skipped(1)),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_change_is_shown_with_what_is_around_it() {
        let before = "1\n2\n3\n4\n5\nold\n6\n7\n8\n9\n";
        let after = "1\n2\n3\n4\n5\nnew\n6\n7\n8\n9\nmore\n";
        let same = |text: &str| Line::Same(text.into());
        let expected = [
            Line::Skipped(2),
            same("3"),
            same("4"),
            same("5"),
            Line::Removed("old".into()),
            Line::Added("new".into()),
            same("6"),
            same("7"),
            same("8"),
            same("9"),
            Line::Added("more".into()),
        ];
        assert_eq!(diff(before, after), expected);
        assert_eq!(diff(before, before), [Line::Skipped(10)]);
        assert_eq!(diff("", "a\n"), [Line::Added("a".into())]);
    }

    proptest! {
        #[test]
        fn it_leads_from_one_to_the_other(before in "([a-c]\n){0,9}", after in "([a-c]\n){0,9}") {
            let lines = between(&before.lines().collect::<Vec<_>>(), &after.lines().collect::<Vec<_>>());
            let side = |keep: fn(&Line) -> Option<&String>| lines.iter().filter_map(keep).map(|line| format!("{line}\n")).collect::<String>();
            prop_assert_eq!(side(|line| match line { Line::Same(text) | Line::Removed(text) => Some(text), _ => None }), before);
            prop_assert_eq!(side(|line| match line { Line::Same(text) | Line::Added(text) => Some(text), _ => None }), after);
        }
    }
}
