//! What is in force in the kernel: read, compared, repaired.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::super::filter;
use super::super::nft;
use super::super::rules::{self, Family, Rule};
use super::super::{GuardCommand, Isolation, Layer, NetKey};
use super::tool::{ToolError, printable, run};

/// Held, in the network namespace of the rules, while the place of `lookup local` is changed: several servers share it.
const LOCK_NAME: &[u8] = b"agent-creds-policy-rules";
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// A reading of everything that concerns us.
pub(super) struct Seen {
    /// The tables of the family `inet`: name and text.
    tables: BTreeMap<String, String>,
    v4: Vec<Rule>,
    /// `None`: the host has no IPv6.
    v6: Option<Vec<Rule>>,
    /// The filters of the bridges that there are.
    filters: BTreeMap<String, Vec<filter::Entry>>,
}

impl Seen {
    /// Reads it.
    pub(super) fn read(wanted: &[Isolation]) -> Result<Self, ToolError> {
        Ok(Self {
            tables: read_tables()?,
            v4: read_rules(Family::V4)?,
            v6: has_ipv6().then(|| read_rules(Family::V6)).transpose()?,
            filters: read_filters(wanted)?,
        })
    }

    /// The layers of this sandbox that are not as they should be.
    pub(super) fn missing(&self, isolation: &Isolation) -> Vec<Layer> {
        let table = self.tables.get(&isolation.key.table()).map(String::as_str);
        let mut missing = Vec::new();
        if table != Some(nft::table(isolation).trim_end()) {
            missing.push(Layer::NftTable);
        }
        let v6 = self.v6.as_ref().is_none_or(|found| rules::hold(isolation, Family::V6, found));
        if !v6 || !rules::hold(isolation, Family::V4, &self.v4) {
            missing.push(Layer::IpRules);
        }
        // Without a bridge nothing comes in by it.
        if self.filters.get(&isolation.key.bridge()).is_some_and(|found| !filter::hold(found)) {
            missing.push(Layer::BridgeFilter);
        }
        missing
    }

    /// Whether there is something of this server that is not wanted.
    pub(super) fn has_leftovers(&self, command: &GuardCommand) -> bool {
        self.stale_tables(command).next().is_some()
            || self.families().any(|(family, found)| {
                let plan = rules::plan(&command.server, &command.hold, family, found);
                !plan.batch.is_empty()
            })
    }

    fn stale_tables<'a>(&'a self, command: &GuardCommand) -> impl Iterator<Item = &'a str> {
        let ours = format!("{}{}", nft::TABLE_PREFIX, command.server.as_str());
        let wanted: BTreeSet<String> = command.hold.iter().map(|isolation| isolation.key.table()).collect();
        let is_key =
            |table: &str| table.strip_prefix(nft::TABLE_PREFIX).is_some_and(|key| key.parse::<NetKey>().is_ok());
        let tables = self.tables.keys().map(String::as_str);
        tables.filter(move |table| table.starts_with(&ours) && is_key(table) && !wanted.contains(*table))
    }

    fn families(&self) -> impl Iterator<Item = (Family, &[Rule])> {
        let v6 = self.v6.as_ref().map(|found| (Family::V6, found.as_slice()));
        std::iter::once((Family::V4, self.v4.as_slice())).chain(v6)
    }
}

/// Applies what is missing and removes what is not wanted. Returns what went wrong, by sandbox.
pub(super) fn repair(
    command: &GuardCommand,
    seen: &Seen,
    missing: &BTreeSet<(NetKey, Layer)>,
) -> BTreeMap<Option<NetKey>, String> {
    let mut errors: BTreeMap<Option<NetKey>, String> = BTreeMap::new();
    let mut note = |key: Option<&NetKey>, what: String| {
        errors.entry(key.cloned()).and_modify(|all| *all = format!("{all}; {what}")).or_insert(what);
    };
    for isolation in &command.hold {
        let key = &isolation.key;
        let lost = |layer| missing.contains(&(key.clone(), layer));
        if lost(Layer::NftTable)
            && let Err(error) = run("nft", &["-f", "-"], &nft::apply(isolation))
        {
            note(Some(key), error.to_string());
        }
        if lost(Layer::BridgeFilter)
            && let Err(error) = run("tc", &["-batch", "-"], &filter::apply(&key.bridge()))
        {
            note(Some(key), error.to_string());
        }
    }
    match repair_rules(command) {
        Ok(None) => {}
        Ok(Some(in_the_way)) => note(
            None,
            format!("the routing rule `{in_the_way}` of another program comes before ours: move it behind priority 10"),
        ),
        Err(error) => note(None, error.to_string()),
    }
    for table in seen.stale_tables(command) {
        if let Err(error) = run("nft", &["-f", "-"], &nft::remove(table)) {
            note(None, error.to_string());
        }
    }
    errors
}

/// Removes what is left of these sandboxes' bridges; what could not be removed, and why.
///
/// Docker leaves a bridge that was there before its network was made, as after a request that was cut short.
pub(super) fn remove_bridges(gone: &[NetKey]) -> Result<(), String> {
    let mut problems = Vec::new();
    for bridge in gone.iter().map(NetKey::bridge).filter(|bridge| exists(bridge)) {
        if let Err(error) = remove_bridge(&bridge)
            && exists(&bridge)
        {
            problems.push(format!("the bridge {bridge} is left: {error}"));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
}

fn remove_bridge(bridge: &str) -> Result<(), String> {
    let output = run("ip", &["-json", "link", "show", "master", bridge], "").map_err(|error| error.to_string())?;
    let links: Vec<serde_json::Map<String, serde_json::Value>> = match output.trim_ascii() {
        b"" => Vec::new(),
        listed => serde_json::from_slice(listed).map_err(|error| unreadable("ip", &error).to_string())?,
    };
    // Of the interfaces that are not its ports, `ip` gives empty objects.
    let ports = links.iter().filter(|link| !link.is_empty()).count();
    if ports > 0 {
        return Err(format!("{ports} interfaces are connected to it"));
    }
    run("ip", &["link", "delete", "dev", bridge, "type", "bridge"], "").map_err(|error| error.to_string())?;
    Ok(())
}

/// Returns a rule of another program that is in the way.
fn repair_rules(command: &GuardCommand) -> Result<Option<String>, ToolError> {
    let _lock = lock()?;
    let mut in_the_way = None;
    let families = [Some(Family::V4), has_ipv6().then_some(Family::V6)];
    for family in families.into_iter().flatten() {
        // Read under the lock: another server's guard may just have moved `lookup local`.
        let plan = rules::plan(&command.server, &command.hold, family, &read_rules(family)?);
        in_the_way = in_the_way.or(plan.in_the_way);
        if !plan.batch.is_empty() {
            run("ip", &[option(family), "-batch", "-"], &plan.batch)?;
        }
    }
    Ok(in_the_way)
}

/// A name that one process of a network namespace can have at a time; it goes with the process.
fn lock() -> Result<UnixListener, ToolError> {
    let failed = |source: io::Error| ToolError::Lock { source };
    let name = SocketAddr::from_abstract_name(LOCK_NAME).map_err(failed)?;
    let begun = Instant::now();
    loop {
        match UnixListener::bind_addr(&name) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < LOCK_PATIENCE => {
                thread::sleep(Duration::from_millis(5));
            }
            bound => return bound.map_err(failed),
        }
    }
}

fn read_tables() -> Result<BTreeMap<String, String>, ToolError> {
    let output = run("nft", &nft::LIST, "")?;
    let text = String::from_utf8_lossy(&output);
    Ok(nft::listed(&text).into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect())
}

fn read_rules(family: Family) -> Result<Vec<Rule>, ToolError> {
    let output = run("ip", &[option(family), "-json", "rule", "show"], "")?;
    rules::listed(&output).map_err(|error| unreadable("ip", &error))
}

fn read_filters(wanted: &[Isolation]) -> Result<BTreeMap<String, Vec<filter::Entry>>, ToolError> {
    let read = || {
        let there: Vec<String> =
            wanted.iter().map(|isolation| isolation.key.bridge()).filter(|bridge| exists(bridge)).collect();
        if there.is_empty() {
            return Ok(BTreeMap::new());
        }
        let lines: String = there.iter().map(|bridge| filter::list(bridge)).collect();
        let output = run("tc", &["-json", "-batch", "-"], &lines)?;
        // One list for each line.
        let lists = serde_json::Deserializer::from_slice(&output).into_iter();
        let lists = lists.collect::<Result<Vec<Vec<filter::Entry>>, _>>().map_err(|error| unreadable("tc", &error))?;
        if lists.len() != there.len() {
            let message = format!("{} lists for {} bridges", lists.len(), there.len());
            return Err(ToolError::Unreadable { program: "tc", message });
        }
        Ok(there.into_iter().zip(lists).collect())
    };
    // A bridge may go between the two steps: once more, without it.
    read().or_else(|_| read())
}

fn unreadable(program: &'static str, error: &serde_json::Error) -> ToolError {
    ToolError::Unreadable { program, message: printable(error.to_string().as_bytes()) }
}

fn option(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}

/// Whether there is an interface of this name in our network namespace.
fn exists(interface: &str) -> bool {
    // `/sys` may be another namespace's; `/proc/self/net` is ours.
    let listed = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    listed.lines().any(|line| line.trim_start().split_once(':').is_some_and(|(name, _)| name == interface))
}

/// Whether the kernel has IPv6 at all.
fn has_ipv6() -> bool {
    Path::new("/proc/self/net/if_inet6").exists()
}
