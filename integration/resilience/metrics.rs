//! `/metrics` is what the exposition format says, and tells what happened; Envoy's statistics are there, its admin is not.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::time::{SystemTime, UNIX_EPOCH};

use http::StatusCode;

use super::{A, B, STRIPE};
use crate::support::probe::admin;
use crate::support::server::{Server, WorldConfig, upstream_section};
use crate::support::upstream::Upstream;

/// A page in the text exposition format, version 0.0.4.
#[derive(Debug, Default)]
struct Page {
    /// By name: the kind, and whether there is a help text.
    families: BTreeMap<String, (String, bool)>,
    /// By series, as it stands in the page: `name{label="value"}`.
    samples: BTreeMap<String, f64>,
}

impl Page {
    /// Reads a page, and is strict: an unknown kind, a bad name, a series twice, a sample of a family that was not
    /// announced, or a histogram that does not add up is an error.
    fn parse(text: &str) -> Result<Self, String> {
        let mut page = Self::default();
        if !text.ends_with('\n') {
            return Err("the last line does not end".to_owned());
        }
        for line in text.lines().filter(|line| !line.is_empty()) {
            page.line(line).map_err(|error| format!("{error}: {line}"))?;
        }
        page.check_histograms()?;
        Ok(page)
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (what, name, rest) = (words.next(), words.next().ok_or("no name")?, words.next());
            check_name(name, true)?;
            match what {
                Some("HELP") => match self.families.insert(name.to_owned(), ("untyped".to_owned(), rest.is_some())) {
                    None => Ok(()),
                    Some(_) => Err("a second HELP, or one after TYPE".to_owned()),
                },
                Some("TYPE") => {
                    let kind = rest.ok_or("no type")?;
                    if !["counter", "gauge", "histogram", "summary", "untyped"].contains(&kind) {
                        return Err("unknown type".to_owned());
                    }
                    if self.samples.keys().any(|series| family_of(series) == name) {
                        return Err("TYPE after a sample".to_owned());
                    }
                    kind.clone_into(&mut self.families.entry(name.to_owned()).or_default().0);
                    Ok(())
                }
                _ => Ok(()),
            }
        } else if line.starts_with('#') {
            Ok(())
        } else {
            self.sample(line)
        }
    }

    fn sample(&mut self, line: &str) -> Result<(), String> {
        let end = line.find(['{', ' ']).ok_or("no value")?;
        let name = &line[..end];
        check_name(name, true)?;
        let mut rest = &line[end..];
        if let Some(mut labels) = rest.strip_prefix('{') {
            loop {
                if let Some(after) = labels.strip_prefix('}') {
                    rest = after;
                    break;
                }
                let equals = labels.find("=\"").ok_or("a label without a value")?;
                check_name(&labels[..equals], false)?;
                labels = skip_value(&labels[equals + 2..])?;
                labels = labels.strip_prefix(',').unwrap_or(labels);
            }
        }
        let value = rest.strip_prefix(' ').ok_or("no space before the value")?;
        let value: f64 = match value {
            "+Inf" => f64::INFINITY,
            "-Inf" => f64::NEG_INFINITY,
            value => value.parse().map_err(|_| "no number")?,
        };
        let series = &line[..line.len() - rest.len()];
        if !self.families.contains_key(name) && !self.families.contains_key(family_of(name)) {
            return Err("a sample without HELP and TYPE".to_owned());
        }
        match self.samples.insert(series.to_owned(), value) {
            None => Ok(()),
            Some(_) => Err("a series twice".to_owned()),
        }
    }

    /// Buckets grow, and the last one is the count.
    fn check_histograms(&self) -> Result<(), String> {
        let histograms = self.families.iter().filter(|(_, (kind, _))| kind == "histogram");
        for (name, _) in histograms {
            let bucket = format!("{name}_bucket{{");
            let mut by_labels: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
            for (series, value) in self.samples.iter().filter(|(series, _)| series.starts_with(&bucket)) {
                let (before, bound) = series.split_once("le=\"").ok_or("a bucket without a bound")?;
                let (bound, after) = bound.split_once('"').ok_or("a bound without an end")?;
                let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().map_err(|_| "a bad bound")? };
                let labels = format!("{}{after}", &before[bucket.len()..]);
                let labels = labels.trim_end_matches('}').trim_matches(',').to_owned();
                by_labels.entry(labels).or_default().push((bound, *value));
            }
            if by_labels.is_empty() {
                return Err(format!("{name} has no buckets"));
            }
            for (labels, mut buckets) in by_labels {
                buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
                let count =
                    if labels.is_empty() { format!("{name}_count") } else { format!("{name}_count{{{labels}}}") };
                let last = buckets.last().copied();
                if last != self.samples.get(&count).map(|count| (f64::INFINITY, *count)) {
                    return Err(format!("{count} is not its last bucket, {last:?}"));
                }
                if !buckets.is_sorted_by(|a, b| a.1 <= b.1) {
                    return Err(format!("{name} {labels}: the buckets do not grow"));
                }
            }
        }
        Ok(())
    }

    fn get(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap_or_else(|| panic!("no {series} among {:#?}", self.samples.keys()))
    }
}

/// The name of the family: of a sample of a histogram or summary, too.
fn family_of(series: &str) -> &str {
    let name = series.split('{').next().unwrap_or(series);
    ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
}

fn check_name(name: &str, colons: bool) -> Result<(), String> {
    let start = |c: char| c.is_ascii_alphabetic() || c == '_' || (colons && c == ':');
    match name.chars().next() {
        Some(first) if start(first) && name.chars().all(|c| start(c) || c.is_ascii_digit()) => Ok(()),
        _ => Err(format!("`{name}` is no name")),
    }
}

/// What follows a label's value: `\\`, `\"` and `\n` are the only escapes.
fn skip_value(text: &str) -> Result<&str, String> {
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok(&text[at + 1..]),
            '\\' if !matches!(chars.next(), Some((_, '\\' | '"' | 'n'))) => return Err("a bad escape".to_owned()),
            _ => {}
        }
    }
    Err("a value without an end".to_owned())
}

#[test]
fn the_parser_is_strict() {
    let head = "# HELP a_total Help.\n# TYPE a_total counter\n";
    let histogram = "# HELP h Help.\n# TYPE h histogram\n";
    for good in [
        format!("{head}a_total 1\n"),
        format!("{head}a_total{{x=\"a\\\"}} b\",y=\"\"}} 1e-3\na_total +Inf\n"),
        format!("{histogram}h_bucket{{le=\"1\"}} 1\nh_bucket{{le=\"+Inf\"}} 2\nh_sum 3\nh_count 2\n"),
    ] {
        assert!(Page::parse(&good).is_ok(), "{good}: {:?}", Page::parse(&good));
    }
    for bad in [
        format!("{head}a_total 1"),
        format!("{head}a_total one\n"),
        format!("{head}a_total  1\n"),
        format!("{head}a_total 1\na_total 2\n"),
        format!("{head}a_total{{x=\"1}} 1\n"),
        format!("{head}a_total{{x=\"\\q\"}} 1\n"),
        format!("{head}a_total{{0=\"\"}} 1\n"),
        "b_total 1\n".to_owned(),
        format!("{head}{head}a_total 1\n"),
        "# TYPE a_total thing\n".to_owned(),
        format!("{histogram}h_bucket{{le=\"1\"}} 3\nh_bucket{{le=\"+Inf\"}} 2\nh_sum 3\nh_count 2\n"),
        format!("{histogram}h_bucket{{le=\"1\"}} 1\nh_sum 3\nh_count 2\n"),
        format!("{histogram}h_sum 3\nh_count 2\n"),
    ] {
        assert!(Page::parse(&bad).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn every_metric_tells_what_happened() {
    let before = unix_now();
    let upstream = Upstream::start(&[STRIPE, A]).await;
    let sections = upstream_section(STRIPE, &upstream, "methods = [\"GET\"]") + &upstream_section(A, &upstream, "");
    let server = Server::start(WorldConfig::new(&sections)).await;
    let client = server.client();
    let (token, elsewhere) = (server.token(&["--hosts", STRIPE]), server.token(&["--hosts", "x.example.com"]));
    let url = format!("https://{STRIPE}/echo");
    for (call, status, times) in [
        (client.get(&url), StatusCode::OK, 1),
        (client.get(&url).bearer(&token), StatusCode::OK, 1),
        (client.post(&url, "").bearer(&token), StatusCode::FORBIDDEN, 1),
        (client.get(&url).bearer(&elsewhere), StatusCode::FORBIDDEN, 1),
        (client.get(&url).bearer("acm_nonsense"), StatusCode::UNAUTHORIZED, 1),
        (client.get(&format!("https://{A}/echo")), StatusCode::OK, 1),
    ] {
        let reply = call.send().await.unwrap();
        assert_eq!((reply.status, times), (status, 1), "{}", reply.text());
    }
    server.apply(&(sections.clone() + &upstream_section(B, &upstream, ""))).await;
    server.apply_broken("nonsense").await;

    let (status, text) = server.http_get("/metrics").await.unwrap();
    assert_eq!(status, StatusCode::OK);
    let page = Page::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let kinds = [
        ("agent_creds_certificates_minted_total", "counter"),
        ("agent_creds_check_seconds", "histogram"),
        ("agent_creds_checks_total", "counter"),
        ("agent_creds_config_generation", "gauge"),
        ("agent_creds_config_last_reload_timestamp_seconds", "gauge"),
        ("agent_creds_config_ok", "gauge"),
        ("agent_creds_config_reloads_total", "counter"),
        ("agent_creds_envoy_restarts_total", "counter"),
        ("agent_creds_xds_acks_total", "counter"),
        ("agent_creds_xds_nacks_total", "counter"),
        ("agent_creds_xds_push_to_ack_seconds", "histogram"),
        ("agent_creds_xds_pushes_total", "counter"),
        ("agent_creds_xds_sent_bytes_total", "counter"),
        ("agent_creds_xds_streams", "gauge"),
    ];
    for (name, kind) in kinds {
        assert_eq!(page.families.get(name), Some(&(kind.to_owned(), true)), "{name}");
    }

    let checks = |decision: &str, reason: &str, upstream: &str| {
        page.get(&format!(
            "agent_creds_checks_total{{decision=\"{decision}\",reason=\"{reason}\",upstream=\"{upstream}\"}}"
        ))
    };
    assert_eq!(checks("pass_through", "no_token", STRIPE), 1.0);
    assert_eq!(checks("pass_through", "no_token", A), 1.0);
    assert_eq!(checks("allow", "token", STRIPE), 1.0);
    assert_eq!(checks("deny", "limit_method", STRIPE), 1.0);
    assert_eq!(checks("deny", "caveat_host", STRIPE), 1.0);
    assert_eq!(checks("deny", "malformed_token", STRIPE), 1.0);
    let all: f64 =
        page.samples.iter().filter(|(name, _)| family_of(name) == "agent_creds_checks_total").map(|(_, n)| n).sum();
    assert_eq!((all, page.get("agent_creds_check_seconds_count")), (6.0, 6.0));
    let seconds = page.get("agent_creds_check_seconds_sum");
    assert!(seconds > 0.0 && seconds < 1.0, "{seconds}");

    assert_eq!(page.get("agent_creds_xds_streams{kind=\"aggregated\",protocol=\"delta\"}"), 1.0);
    for ty in ["cluster", "listener", "route", "secret"] {
        let of_type = |name: &str| page.get(&format!("agent_creds_xds_{name}{{type=\"{ty}\"}}"));
        assert!(of_type("pushes_total") > 0.0 && of_type("sent_bytes_total") > 100.0, "{ty}");
        assert_eq!(of_type("pushes_total"), of_type("acks_total"), "{ty}");
        assert_eq!(of_type("nacks_total"), 0.0, "{ty}");
        assert_eq!(of_type("push_to_ack_seconds_count"), of_type("acks_total"), "{ty}");
        let mean = of_type("push_to_ack_seconds_sum") / of_type("push_to_ack_seconds_count");
        assert!(mean > 0.0 && mean < 5.0, "{ty}: {mean}");
    }
    assert_eq!(page.get("agent_creds_config_generation"), 2.0);
    assert_eq!(page.get("agent_creds_config_ok"), 0.0);
    assert_eq!(page.get("agent_creds_config_reloads_total{result=\"ok\"}"), 2.0, "the first one and the edit");
    assert_eq!(page.get("agent_creds_config_reloads_total{result=\"broken\"}"), 1.0);
    let last = page.get("agent_creds_config_last_reload_timestamp_seconds");
    assert!(before <= last && last <= unix_now(), "{before} {last}");
    assert_eq!(page.get("agent_creds_certificates_minted_total"), 3.0, "one for each host");
    assert_eq!(page.get("agent_creds_envoy_restarts_total"), 0.0);
}

#[tokio::test]
async fn envoys_statistics_are_served_and_its_admin_interface_is_not() {
    let upstream = Upstream::start(&[A]).await;
    let server = Server::start(WorldConfig::new(upstream_section(A, &upstream, ""))).await;
    let client = server.client();
    for _ in 0..3 {
        assert_eq!(client.get(&format!("https://{A}/echo")).send().await.unwrap().status, StatusCode::OK);
    }
    let (status, text) = server.http_get("/envoy/stats/prometheus").await.unwrap();
    assert_eq!(status, StatusCode::OK);
    // A label for each host, and not a metric for each.
    let series = "envoy_cluster_upstream_rq_total{envoy_cluster_name=\"config/a_example_com\"} ";
    let requests = text.lines().find(|line| line.starts_with(series));
    let requests = requests.and_then(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
    assert_eq!(requests, Some(3), "{:#?}", text.lines().filter(|line| line.contains("rq_total")).collect::<Vec<_>>());

    // Nothing else of the admin interface is reachable by HTTP, whatever the path.
    for path in [
        "/envoy/config_dump",
        "/envoy/stats",
        "/envoy/stats/prometheus/../../config_dump",
        "/envoy/stats/prometheus/..%2f..%2fconfig_dump",
        "/envoy/quitquitquit",
        "/config_dump",
        "/quitquitquit",
        "//envoy/stats/prometheus",
    ] {
        let (status, text) = server.http_get(path).await.unwrap();
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}: {text}");
    }
    let (status, same) = server.http_get("/envoy/stats/prometheus?/../../config_dump").await.unwrap();
    assert!(status == StatusCode::OK && !same.contains("configs"), "the query is not passed on");

    let socket = server.envoy_admin();
    let metadata = std::fs::metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(server.runtime_dir()).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(admin(&socket, "/ready").await.unwrap().contains("LIVE"));
    // Envoy listens for agents on the gateway's address, and nowhere else.
    assert_eq!(listening(server.envoy_pid().await), [server.addr().to_string()]);

    // Without Envoy the page says so, and the server's own metrics go on.
    let server = Server::start(WorldConfig::new(upstream_section(A, &upstream, "")).without_envoy()).await;
    let (status, text) = server.http_get("/envoy/stats/prometheus").await.unwrap();
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(text.contains("Envoy does not answer"), "{text}");
    Page::parse(&server.metrics().await).unwrap();
}

fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// The TCP addresses that a process listens on, each once.
fn listening(pid: u32) -> Vec<String> {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let links = descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let inodes: Vec<String> =
        links.filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect();
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            // proc_pid_net(5): local address 1, state 3 (0A is LISTEN), inode 9.
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            if fields[3] == "0A" && inodes.iter().any(|inode| inode == fields[9]) {
                let (ip, port) = fields[1].split_once(':').unwrap();
                let port = u16::from_str_radix(port, 16).unwrap();
                let ip = u32::from_str_radix(ip, 16).map(|ip| std::net::Ipv4Addr::from(ip.swap_bytes()).to_string());
                found.push(format!("{}:{port}", ip.unwrap_or_else(|_| "an IPv6 address".to_owned())));
            }
        }
    }
    found.sort();
    found.dedup();
    found
}
