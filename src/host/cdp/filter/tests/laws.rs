//! What holds for every exchange.

use proptest::prelude::*;

use super::*;

/// Something that the client, the browser or the user does.
#[derive(Debug, Clone)]
enum Step {
    Client {
        session: Option<usize>,
        method: usize,
        params: usize,
    },
    /// A tab goes somewhere; Chrome tells at once, or when asked.
    Goes {
        tab: usize,
        place: usize,
        told: bool,
    },
    /// A page says where it is, in an event or in an answer.
    Says {
        session: usize,
        event: usize,
    },
    /// The browser answers what it was asked.
    Answers,
    Checks(bool),
    Rules(bool),
    Opens,
    Closes(usize),
}

const METHODS: [&str; 16] = [
    "Target.getTargets",
    "Target.setDiscoverTargets",
    "Target.setAutoAttach",
    "Target.attachToTarget",
    "Target.getTargetInfo",
    "Target.detachFromTarget",
    "Target.closeTarget",
    "Target.createTarget",
    "Page.enable",
    "Page.navigate",
    "Page.getNavigationHistory",
    "Page.captureScreenshot",
    "Runtime.enable",
    "Runtime.evaluate",
    "DOM.getDocument",
    "Network.enable",
];
const EVENTS: [&str; 6] = [
    "Page.frameNavigated",
    "Page.loadEventFired",
    "Runtime.consoleAPICalled",
    "Network.requestWillBeSent",
    "Log.entryAdded",
    "DOM.documentUpdated",
];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (proptest::option::weighted(0.6, 0..4_usize), 0..METHODS.len(), 0..5_usize)
            .prop_map(|(session, method, params)| Step::Client { session, method, params }),
        3 => (0..3_usize, 0..4_usize, any::<bool>()).prop_map(|(tab, place, told)| Step::Goes { tab, place, told }),
        4 => (0..4_usize, 0..EVENTS.len()).prop_map(|(session, event)| Step::Says { session, event }),
        4 => Just(Step::Answers),
        2 => any::<bool>().prop_map(Step::Checks),
        1 => any::<bool>().prop_map(Step::Rules),
        1 => Just(Step::Opens),
        1 => (0..3_usize).prop_map(Step::Closes),
    ];
    proptest::collection::vec(step, 1..80)
}

/// Whether what this tab shows is secret from the client.
fn is_secret(world: &World, target: &str) -> bool {
    world.infos.get(target).is_none_or(|info| info["title"].as_str().unwrap().contains(SECRET))
}

/// Chrome tells of every document that a tab shows, before it shows the next.
fn tells(world: &mut World, tab: &str) {
    let info = world.infos[tab].clone();
    if info["url"] != "" {
        world.says(json!({"method": "Target.targetInfoChanged", "params": {"targetInfo": info}}));
    }
}

fn step(world: &mut World, step: Step) {
    let sessions: Vec<(String, String)> =
        world.filter.sessions.iter().map(|(id, session)| (id.clone(), session.target.clone())).collect();
    let tabs: Vec<String> = world.infos.keys().cloned().collect();
    // What a page says now is of the document that it shows now.
    let content = |world: &World, target: &str| if is_secret(world, target) { SECRET } else { "public" };
    match step {
        Step::Client { session, method, params } => {
            let session = session.and_then(|at| sessions.get(at)).map(|(id, _)| id.clone());
            let params = [
                json!({"targetId": "APP", "flatten": true, "autoAttach": true, "discover": true, "url": APP, "expression": "1",
                    "filter": if session.is_some() { json!([{}]) } else { json!([{"type": "page"}, {"type": "tab"}]) }}),
                json!({"targetId": "MAIL", "url": "https://mail.example/", "expression": "1", "contextId": 1}),
                json!({"targetId": "APP", "sessionId": sessions.first().map(|(id, _)| id), "url": "about:blank", "discover": false}),
                json!({"targetId": "NEW", "flatten": false, "url": "http://localhost:3000/x"}),
                json!({}),
            ][params]
                .clone();
            world.sends(session.as_deref(), METHODS[method], params);
        }
        Step::Goes { tab, place, told } => {
            if let Some(tab) = tabs.get(tab) {
                tells(world, tab);
                // What a page says between two documents is of the next one.
                let arrives = world.infos[tab]["url"] == "";
                let (place, told) = if arrives { (1, true) } else { (place, told) };
                let (url, title) = [
                    (APP, "My App"),
                    ("https://mail.example/s3cr3t", "Inbox s3cr3t"),
                    ("http://localhost:3000/2", "Two"),
                    ("", "s3cr3t"),
                ][place];
                world.goes(tab, url, title, told);
            }
        }
        Step::Says { session, event } => {
            if let Some((id, target)) = sessions.get(session) {
                let url = world.infos.get(target).map_or(json!(SECRET), |info| info["url"].clone());
                let content = content(world, target);
                let params = json!({"frame": {"id": target, "url": url}, "frameId": target, "type": "Document", "requestId": "1",
                    "request": {"url": url}, "text": content});
                world.event(id, EVENTS[event], params);
            }
        }
        Step::Answers => {
            for message in std::mem::take(&mut world.asked) {
                let session = message["sessionId"].as_str().unwrap_or_default();
                let target =
                    sessions.iter().find(|(id, _)| id == session).map_or("MAIL", |(_, target)| target).to_owned();
                let result = match message["method"].as_str().unwrap() {
                    "Target.getTargetInfo" => {
                        world.answer_check(&message);
                        continue;
                    }
                    "Target.createTarget" => json!({"targetId": "NEW"}),
                    _ if session.is_empty() => json!({}),
                    _ => json!({"text": content(world, &target)}),
                };
                world.answers(&message, result);
            }
        }
        Step::Checks(answers) => world.answers_checks = answers,
        Step::Rules(allowed) => {
            let out = world.filter.on_rules(if allowed { rules("http://localhost:3000/*") } else { Arc::default() });
            world.take(out);
        }
        Step::Opens if world.infos.contains_key("NEW") => {}
        Step::Opens => world.appears(page("NEW", "about:blank", "")),
        Step::Closes(tab) => {
            if let Some(tab) = tabs.get(tab) {
                world.infos.remove(tab);
                world.says(json!({"method": "Target.targetDestroyed", "params": {"targetId": tab}}));
            }
        }
    }
}

/// A message, taken out of those that carry it for a session that is not flattened.
fn unwrapped(message: &Value) -> Value {
    match message["params"]["message"].as_str() {
        Some(inner) => unwrapped(&serde_json::from_str(inner).unwrap()),
        None => message.clone(),
    }
}

proptest! {
    #[test]
    fn nothing_secret_comes_out_and_every_command_is_answered(steps in steps()) {
        let mut world = World::new();
        for one in steps {
            if world.closed.is_some() {
                break;
            }
            step(&mut world, one);
            prop_assert!(!format!("{:?}", world.got).contains(SECRET), "{:?}", world.got);
        }
        // Every navigation ends, and the browser answers all that is left.
        world.answers_checks = true;
        for tab in world.infos.keys().cloned().collect::<Vec<_>>() {
            tells(&mut world, &tab);
            let (url, title) = if world.infos[&tab]["url"] == "" { ("https://mail.example/", SECRET) } else { (APP, "My App") };
            world.goes(&tab, url, title, true);
        }
        for _ in 0..8 {
            step(&mut world, Step::Answers);
        }
        for id in 1..=world.next {
            let answers = world.got.iter().filter(|message| unwrapped(message)["id"] == id).count();
            prop_assert_eq!(answers, 1, "command {} of {:?}", id, world.got);
        }
        prop_assert!(world.filter.held.is_empty() && world.filter.pending.is_empty());
    }
}
