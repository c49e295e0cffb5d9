//! The string literals of a Rust source, outside of its tests, each with the names of the calls, macros and attributes around it.

/// A string literal.
#[derive(Debug)]
pub struct Literal {
    /// Its text, escapes undone.
    pub text: String,
    /// Its line, from 1.
    pub line: usize,
    /// The names before the brackets that it stands in, outermost first: `bail!`, `context`, `error` of `#[error(…)]`.
    pub around: Vec<String>,
}

enum Token {
    Word(String),
    Mark(char),
    Text(String),
}

/// All of `source`.
pub fn literals(source: &str) -> Vec<Literal> {
    let tokens = tokens(source);
    let mut found = Vec::new();
    let mut around: Vec<String> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if is_for_tests(&tokens, at) {
            at = after_item(&tokens, at);
            continue;
        }
        match &tokens[at].0 {
            Token::Mark('(' | '[' | '{') => around.push(name_before(&tokens, at)),
            Token::Mark(')' | ']' | '}') => drop(around.pop()),
            Token::Text(text) => {
                found.push(Literal { text: text.clone(), line: tokens[at].1, around: around.clone() });
            }
            _ => {}
        }
        at += 1;
    }
    found
}

fn name_before(tokens: &[(Token, usize)], at: usize) -> String {
    let before = |n: usize| at.checked_sub(n).map(|at| &tokens[at].0);
    match (before(2), before(1)) {
        (Some(Token::Word(name)), Some(Token::Mark('!'))) => format!("{name}!"),
        (_, Some(Token::Word(name))) => name.clone(),
        _ => String::new(),
    }
}

fn is_for_tests(tokens: &[(Token, usize)], at: usize) -> bool {
    let words = tokens[at..].iter().take(7).map(|(token, _)| match token {
        Token::Word(word) => word.clone(),
        Token::Mark(mark) => mark.to_string(),
        Token::Text(_) => String::new(),
    });
    words.eq(["#", "[", "cfg", "(", "test", ")", "]"])
}

/// Where the item ends that an attribute at `at` is of.
fn after_item(tokens: &[(Token, usize)], at: usize) -> usize {
    let mut depth = 0_usize;
    for (at, (token, _)) in tokens.iter().enumerate().skip(at + 7) {
        match token {
            Token::Mark('(' | '[' | '{') => depth += 1,
            Token::Mark(mark @ (')' | ']' | '}')) => {
                depth -= 1;
                if depth == 0 && *mark == '}' {
                    return at + 1;
                }
            }
            Token::Mark(';') if depth == 0 => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}

fn tokens(source: &str) -> Vec<(Token, usize)> {
    let chars: Vec<char> = source.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line, mut counted) = (0, 1, 0);
    let starts = |at: usize, what: &str| what.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c));
    while at < chars.len() {
        line += chars[counted..at].iter().filter(|c| **c == '\n').count();
        counted = at;
        let c = chars[at];
        if starts(at, "//") {
            at += chars[at..].iter().take_while(|c| **c != '\n').count();
        } else if c == '"' {
            let (text, end) = text(&chars, at + 1);
            tokens.push((Token::Text(text), line));
            at = end;
        } else if c == '\'' {
            // `'x'` and `'\n'` are characters, `'x` is a lifetime.
            at = match (chars.get(at + 1), chars.get(at + 2)) {
                (Some('\\'), _) => at + 4 + chars[at + 3..].iter().take_while(|c| **c != '\'').count(),
                (Some(_), Some('\'')) => at + 3,
                _ => at + 1,
            };
        } else if c.is_alphanumeric() || c == '_' {
            let word: String = chars[at..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').collect();
            at += word.chars().count();
            let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
            if word.ends_with('r') && word.len() <= 2 && chars.get(at + hashes) == Some(&'"') {
                let from = at + hashes + 1;
                let end: String = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                let length = (0..chars.len() - from).find(|length| starts(from + length, &end)).expect("the text ends");
                tokens.push((Token::Text(chars[from..from + length].iter().collect()), line));
                at = from + length + end.len();
            } else if chars.get(at) != Some(&'"') || word.len() > 1 {
                tokens.push((Token::Word(word), line));
            }
        } else {
            if !c.is_whitespace() {
                tokens.push((Token::Mark(c), line));
            }
            at += 1;
        }
    }
    tokens
}

/// The text from `at` on to its quote, and where that ends.
fn text(chars: &[char], mut at: usize) -> (String, usize) {
    let mut text = String::new();
    loop {
        match (chars[at], chars[at + 1..].first()) {
            ('"', _) => return (text, at + 1),
            ('\\', Some('\n')) => {
                at += 1;
                at += chars[at..].iter().take_while(|c| c.is_whitespace()).count();
            }
            ('\\', Some('u')) => {
                let digits: String = chars[at + 3..].iter().take_while(|c| **c != '}').collect();
                text.extend(u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32));
                at += 4 + digits.len();
            }
            ('\\', Some('x')) => at += 4,
            ('\\', Some(escaped)) => {
                text.push(match escaped {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    other => *other,
                });
                at += 2;
            }
            (c, _) => {
                text.push(c);
                at += 1;
            }
        }
    }
}
