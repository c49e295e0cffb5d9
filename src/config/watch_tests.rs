use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::symlink;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::*;
use crate::config::{Sources, VaultSource};

/// Long enough for a loaded machine; no test waits for it to pass.
const DEADLINE: Duration = Duration::from_secs(20);

fn gateway(port: u16, hosts: &[&str]) -> String {
    let mut text = format!("[gateway]\nname = \"g{port}\"\nlisten = \"127.0.0.1:{port}\"\n");
    for host in hosts {
        text.push_str(&format!("[upstream.\"{host}\"]\n"));
    }
    text
}

/// A folder whose files are being watched.
struct Watched {
    temp: tempfile::TempDir,
    rx: watch::Receiver<Arc<Loaded>>,
    changes: mpsc::Sender<SourceChange>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), WatchError>>,
}

impl Watched {
    /// Watches `projects` in a new folder that `prepare` fills.
    fn start(projects: &[&str], vault: Option<&str>, prepare: impl FnOnce(&Path)) -> Self {
        let temp = tempfile::tempdir().unwrap();
        prepare(temp.path());
        let sources = Sources {
            projects: projects.iter().map(|name| temp.path().join(name)).collect(),
            vault: vault.map(|name| VaultSource::Default(temp.path().join(name))),
        };
        let loader = Loader::load(&sources).unwrap();
        let (tx, rx) = watch::channel(loader.loaded());
        let (stop, stopped) = oneshot::channel();
        let (changes, asked) = mpsc::channel(1);
        let task = tokio::spawn(watch(loader, tx, asked, async {
            let _ = stopped.await;
        }));
        Self { temp, rx, changes, stop, task }
    }

    /// One gateway in `p/agent-creds.toml` that reaches `a.example`.
    fn one() -> Self {
        Self::start(&["p"], None, |root| {
            fs::create_dir(root.join("p")).unwrap();
            fs::write(root.join("p/agent-creds.toml"), gateway(1, &["a.example"])).unwrap();
        })
    }

    fn sandbox(&self, id: &str, name: &str) -> SandboxFile {
        let workspace = self.temp.path().canonicalize().unwrap();
        SandboxFile { id: id.parse().unwrap(), path: self.path(name), workspace, mounted: None }
    }

    async fn change(&self, kind: SourceChangeKind) -> Result<Arc<Loaded>, Diagnostics> {
        let (reply, replied) = oneshot::channel();
        self.changes.send(SourceChange { kind, reply }).await.unwrap();
        timeout(DEADLINE, replied).await.unwrap().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn file(&self) -> PathBuf {
        self.path("p/agent-creds.toml")
    }

    async fn until(&mut self, what: &str, wanted: impl Fn(&Loaded) -> bool) -> Arc<Loaded> {
        let last = self.rx.clone();
        match timeout(DEADLINE, self.rx.wait_for(|loaded| wanted(loaded))).await {
            Ok(Ok(loaded)) => Arc::clone(&loaded),
            Ok(Err(_)) => panic!("the watch task ended before: {what}"),
            Err(_) => panic!("not in time: {what}; last: {:?}", last.borrow()),
        }
    }

    /// Waits until project `index` reaches exactly `hosts`.
    async fn reaches(&mut self, index: usize, hosts: &[&str]) -> Arc<Loaded> {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        self.until(&format!("{hosts:?}"), |loaded| {
            loaded.projects[index].upstreams.keys().map(ToString::to_string).eq(hosts.iter().cloned())
        })
        .await
    }

    async fn end(self) {
        self.stop.send(()).unwrap();
        timeout(DEADLINE, self.task).await.unwrap().unwrap().unwrap();
    }
}

fn rename_save(file: &Path, text: &str) {
    let temp = file.with_extension("tmp");
    fs::write(&temp, text).unwrap();
    fs::rename(temp, file).unwrap();
}

#[tokio::test]
async fn a_plain_save_and_a_rename_are_seen() {
    let mut w = Watched::one();
    fs::write(w.file(), gateway(1, &["b.example"])).unwrap();
    assert_eq!(w.reaches(0, &["b.example"]).await.generation, 2);
    rename_save(&w.file(), &gateway(1, &["c.example"]));
    assert_eq!(w.reaches(0, &["c.example"]).await.generation, 3);
    w.end().await;
}

#[tokio::test]
async fn a_file_written_in_pieces_is_read_when_it_is_closed() {
    let mut w = Watched::one();
    // Both pieces are valid TOML by themselves: only the close tells that the first is not all.
    let text = gateway(1, &["b.example", "c.example"]);
    let (first, second) = text.split_at(text.find("[upstream.\"c").unwrap());
    let mut file = File::create(w.file()).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    file.write_all(first.as_bytes()).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(w.rx.borrow().generation, 1);
    file.write_all(second.as_bytes()).unwrap();
    drop(file);
    // One change: neither the empty file nor the half was ever in force.
    assert_eq!(w.reaches(0, &["b.example", "c.example"]).await.generation, 2);
    assert_eq!(w.rx.borrow().problems, []);
    w.end().await;
}

#[tokio::test]
async fn a_writer_that_never_closes_is_not_waited_for_for_ever() {
    let mut w = Watched::one();
    let mut file = File::create(w.file()).unwrap();
    file.write_all(gateway(1, &["b.example"]).as_bytes()).unwrap();
    w.reaches(0, &["b.example"]).await;
    drop(file);
    w.end().await;
}

#[tokio::test]
async fn vim_moves_the_old_file_away_and_writes_a_new_one() {
    let mut w = Watched::one();
    for (i, host) in ["b.example", "c.example", "d.example"].into_iter().enumerate() {
        fs::write(w.path("p/4913"), "").unwrap();
        fs::remove_file(w.path("p/4913")).unwrap();
        fs::write(w.path("p/.agent-creds.toml.swp"), "swap").unwrap();
        fs::rename(w.file(), w.path("p/agent-creds.toml~")).unwrap();
        let mut file = File::create_new(w.file()).unwrap();
        file.write_all(gateway(1, &[host]).as_bytes()).unwrap();
        drop(file);
        fs::remove_file(w.path("p/agent-creds.toml~")).unwrap();
        let loaded = w.reaches(0, &[host]).await;
        assert_eq!((loaded.generation, &loaded.problems), (2 + i as u64, &Vec::new()));
    }
    w.end().await;
}

#[tokio::test]
async fn a_swapped_symlink_is_seen() {
    // The layout of a mounted Kubernetes ConfigMap.
    let mut w = Watched::start(&["m"], None, |root| {
        fs::create_dir_all(root.join("m/..v1")).unwrap();
        fs::write(root.join("m/..v1/agent-creds.toml"), gateway(1, &["a.example"])).unwrap();
        symlink("..v1", root.join("m/..data")).unwrap();
        symlink("..data/agent-creds.toml", root.join("m/agent-creds.toml")).unwrap();
    });
    for (version, host) in [(2, "b.example"), (3, "c.example"), (4, "d.example")] {
        let folder = w.path(&format!("m/..v{version}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("agent-creds.toml"), gateway(1, &[host])).unwrap();
        symlink(folder.file_name().unwrap(), w.path("m/..data_tmp")).unwrap();
        fs::rename(w.path("m/..data_tmp"), w.path("m/..data")).unwrap();
        fs::remove_dir_all(w.path(&format!("m/..v{}", version - 1))).unwrap();
        let loaded = w.reaches(0, &[host]).await;
        assert_eq!((loaded.generation, &loaded.problems), (version, &Vec::new()));
    }
    w.end().await;
}

#[tokio::test]
async fn the_target_of_a_symlink_is_watched_and_so_is_the_link() {
    let mut w = Watched::start(&["p/link.toml"], None, |root| {
        for folder in ["p", "one", "two"] {
            fs::create_dir(root.join(folder)).unwrap();
        }
        fs::write(root.join("one/x.toml"), gateway(1, &["a.example"])).unwrap();
        fs::write(root.join("two/y.toml"), gateway(1, &["c.example"])).unwrap();
        symlink(root.join("one/x.toml"), root.join("p/link.toml")).unwrap();
    });
    rename_save(&w.path("one/x.toml"), &gateway(1, &["b.example"]));
    w.reaches(0, &["b.example"]).await;
    fs::remove_file(w.path("p/link.toml")).unwrap();
    symlink("../two/y.toml", w.path("p/link.toml")).unwrap();
    w.reaches(0, &["c.example"]).await;
    fs::write(w.path("two/y.toml"), gateway(1, &["d.example"])).unwrap();
    w.reaches(0, &["d.example"]).await;
    w.end().await;
}

#[tokio::test]
async fn a_file_or_folder_that_goes_keeps_its_last_good_version_and_may_come_back() {
    let mut w = Watched::one();
    fs::remove_file(w.file()).unwrap();
    let loaded = w.until("the file is missing", |loaded| loaded.broken).await;
    assert_eq!((loaded.generation, loaded.projects.len()), (1, 1));
    fs::write(w.file(), gateway(1, &["b.example"])).unwrap();
    assert_eq!(w.reaches(0, &["b.example"]).await.problems, []);

    fs::remove_dir_all(w.path("p")).unwrap();
    w.until("the folder is missing", |loaded| loaded.broken).await;
    fs::create_dir(w.path("p")).unwrap();
    fs::write(w.file(), gateway(1, &["c.example"])).unwrap();
    assert_eq!(w.reaches(0, &["c.example"]).await.problems, []);
    // The new folder is watched like the old one.
    fs::write(w.file(), gateway(1, &["d.example"])).unwrap();
    w.reaches(0, &["d.example"]).await;

    // Another folder takes its place at once.
    fs::create_dir(w.path("new")).unwrap();
    fs::write(w.path("new/agent-creds.toml"), gateway(1, &["e.example"])).unwrap();
    fs::rename(w.path("p"), w.path("old")).unwrap();
    fs::rename(w.path("new"), w.path("p")).unwrap();
    w.reaches(0, &["e.example"]).await;
    fs::write(w.path("old/agent-creds.toml"), gateway(1, &["x.example"])).unwrap();
    fs::write(w.file(), gateway(1, &["f.example"])).unwrap();
    w.reaches(0, &["f.example"]).await;
    w.end().await;
}

#[tokio::test]
async fn a_renamed_ancestor_makes_no_event_and_is_seen_all_the_same() {
    let mut w = Watched::start(&["top/mid/p"], None, |root| {
        for (folder, host) in [("top/mid/p", "a.example"), ("new/mid/p", "b.example")] {
            fs::create_dir_all(root.join(folder)).unwrap();
            fs::write(root.join(folder).join("agent-creds.toml"), gateway(1, &[host])).unwrap();
        }
    });
    fs::rename(w.path("top"), w.path("old")).unwrap();
    fs::rename(w.path("new"), w.path("top")).unwrap();
    w.reaches(0, &["b.example"]).await;
    w.end().await;
}

#[tokio::test]
async fn a_broken_edit_is_told_and_its_repair_too() {
    let mut w = Watched::start(&["a.toml", "b.toml"], Some("v.toml"), |root| {
        fs::write(root.join("a.toml"), gateway(1, &["a.example"])).unwrap();
        fs::write(root.join("b.toml"), gateway(2, &["b.example"])).unwrap();
    });
    fs::write(w.path("a.toml"), "[gateway]\nlisten = 1\n").unwrap();
    let loaded = w.until("broken", |loaded| loaded.broken).await;
    assert_eq!((loaded.problems.len(), loaded.problems[0].line, loaded.problems[0].column), (1, 2, 10));
    assert_eq!(loaded.generation, 1);
    // The other sources go on meanwhile.
    fs::write(w.path("b.toml"), gateway(2, &["b2.example"])).unwrap();
    assert!(w.reaches(1, &["b2.example"]).await.broken);
    let token = "[credentials.\"a.example\"]\ntype = \"bearer\"\ntoken = { provider = \"env\", name = \"A\" }\n";
    fs::write(w.path("v.toml"), token).unwrap();
    w.until("the vault's file", |loaded| loaded.vault.credentials.len() == 1).await;
    fs::write(w.path("a.toml"), gateway(1, &["a2.example"])).unwrap();
    assert_eq!(w.reaches(0, &["a2.example"]).await.problems, []);
    w.end().await;
}

#[tokio::test]
async fn a_ca_file_is_watched_from_when_it_is_named() {
    let mut w = Watched::one();
    fs::create_dir(w.path("certs")).unwrap();
    let text = format!("{}ca = \"../certs/ca.pem\"\n", gateway(1, &["a.example"]));
    fs::write(w.file(), text).unwrap();
    w.until("the file is missing", |loaded| loaded.broken).await;
    fs::write(w.path("certs/ca.pem"), crate::config::ca::tests::make_ca().0).unwrap();
    let loaded = w.until("the file is there", |loaded| !loaded.broken).await;
    let ca = |loaded: &Loaded| loaded.projects[0].upstreams.values().next().unwrap().ca.clone().unwrap();
    let first = ca(&loaded);
    rename_save(&w.path("certs/ca.pem"), &crate::config::ca::tests::make_ca().0);
    w.until("another certificate", |loaded| ca(loaded) != first).await;
    w.end().await;
}

#[tokio::test]
async fn an_edit_before_the_watch_begins_is_not_lost() {
    let mut w = Watched::one();
    // The task has not run yet: nothing was awaited.
    fs::write(w.file(), gateway(1, &["b.example"])).unwrap();
    w.reaches(0, &["b.example"]).await;
    w.end().await;
}

#[tokio::test]
async fn what_does_not_change_a_byte_is_no_change() {
    let mut w = Watched::one();
    fs::write(w.file(), gateway(1, &["a.example"])).unwrap();
    rename_save(&w.file(), &gateway(1, &["a.example"]));
    fs::write(w.file(), gateway(1, &["b.example"])).unwrap();
    assert_eq!(w.reaches(0, &["b.example"]).await.generation, 2);
    w.end().await;
}

#[tokio::test]
async fn many_rapid_edits_end_in_the_last() {
    let mut w = Watched::one();
    let file = w.file();
    let writer = tokio::task::spawn_blocking(move || {
        for i in 0..200 {
            let text = gateway(1, &[&format!("h{i}.example")]);
            if i % 2 == 0 { rename_save(&file, &text) } else { fs::write(&file, text).unwrap() }
        }
    });
    writer.await.unwrap();
    assert_eq!(w.reaches(0, &["h199.example"]).await.problems, []);
    w.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_come_and_go_while_the_server_runs() {
    let mut it = Watched::start(&[], None, |root| {
        fs::create_dir(root.join("p")).unwrap();
        fs::write(root.join("p/agent-creds.toml"), "[upstream.\"a.example\"]\n").unwrap();
        fs::write(root.join("gateway.toml"), gateway(1, &["a.example"])).unwrap();
        fs::write(root.join("broken.toml"), "[upstream").unwrap();
    });
    let names = |loaded: &Loaded| loaded.projects.iter().map(|p| p.id.to_string()).collect::<Vec<_>>();
    // One folder makes two sandboxes; each has its own name.
    let loaded = it.change(SourceChangeKind::Add(it.sandbox("one", "p"))).await.unwrap();
    assert_eq!((names(&loaded), loaded.generation), (vec!["one".to_owned()], 2));
    let loaded = it.change(SourceChangeKind::Add(it.sandbox("two", "p"))).await.unwrap();
    assert_eq!(names(&loaded), ["one", "two"]);
    let taken = it.change(SourceChangeKind::Add(it.sandbox("two", "p"))).await.unwrap_err().to_string();
    assert!(taken.contains("the name `two` is taken by"), "{taken}");
    let refused = it.change(SourceChangeKind::Add(it.sandbox("three", "gateway.toml"))).await.unwrap_err().to_string();
    assert!(refused.contains("this is a gateway's file"), "{refused}");
    it.change(SourceChangeKind::Add(it.sandbox("three", "broken.toml"))).await.unwrap_err();
    // A sandbox that runs already is taken up with a broken file, too, and may reach nothing.
    let loaded = it.change(SourceChangeKind::Adopt(it.sandbox("three", "broken.toml"))).await.unwrap();
    assert!(loaded.broken && loaded.projects[2].upstreams.is_empty());
    fs::write(it.path("broken.toml"), "[upstream.\"c.example\"]\n").unwrap();
    it.reaches(2, &["c.example"]).await;
    // An edit reaches both, and one that makes it a gateway's file is refused.
    fs::write(it.file(), "[upstream.\"b.example\"]\n").unwrap();
    it.reaches(0, &["b.example"]).await;
    it.reaches(1, &["b.example"]).await;
    fs::write(it.file(), gateway(1, &["c.example"])).unwrap();
    let broken = it.until("two problems", |loaded| loaded.problems.len() == 2).await;
    assert_eq!(names(&broken), ["one", "two", "three"]);
    let loaded = it.change(SourceChangeKind::Remove("one".parse().unwrap())).await.unwrap();
    assert_eq!((names(&loaded), loaded.problems.len()), (vec!["two".to_owned(), "three".to_owned()], 2));
    let loaded = it.change(SourceChangeKind::Remove("two".parse().unwrap())).await.unwrap();
    assert_eq!((names(&loaded), loaded.problems.len()), (vec!["three".to_owned()], 0));
    it.stop.send(()).unwrap();
    it.task.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_the_agent_may_have_replaced_widens_nothing_by_itself() {
    let mut it = Watched::start(&[], None, |root| {
        fs::create_dir(root.join("p")).unwrap();
        fs::write(root.join("p/agent-creds.toml"), "[upstream.\"a.example\"]\n[upstream.\"b.example\"]\n").unwrap();
    });
    let replace = |it: &Watched, text: &str| {
        fs::write(it.path("p/new"), text).unwrap();
        fs::rename(it.path("p/new"), it.file()).unwrap();
    };
    it.change(SourceChangeKind::Add(it.sandbox("box", "p"))).await.unwrap();
    // The mounted file itself is only written on the host.
    fs::write(it.file(), "[upstream.\"a.example\"]\n[upstream.\"b.example\"]\n[upstream.\"c.example\"]\n").unwrap();
    it.reaches(0, &["a.example", "b.example", "c.example"]).await;
    // Another file in its place may allow less, and no more.
    replace(&it, "[upstream.\"a.example\"]\n[upstream.\"b.example\"]\n");
    it.reaches(0, &["a.example", "b.example"]).await;
    replace(&it, "[upstream.\"a.example\"]\n[upstream.\"evil.example\"]\n");
    let held = it.until("held back", |loaded| !loaded.unconfirmed.is_empty()).await;
    assert!(held.problems[0].message.contains("reach evil.example"), "{held:?}");
    assert!(held.problems[0].hint.as_ref().unwrap().contains("adev accept box"));
    it.reaches(0, &["a.example", "b.example"]).await;
    // Nor by writing into the new one.
    fs::write(it.file(), "[upstream.\"worse.example\"]\n").unwrap();
    it.until("held back again", |loaded| loaded.problems.iter().any(|p| p.message.contains("worse.example"))).await;
    it.reaches(0, &["a.example", "b.example"]).await;
    // A person decides; what comes after that is held back again.
    fs::write(it.file(), "[upstream.\"d.example\"]\n").unwrap();
    it.until("d is asked for", |loaded| loaded.problems.iter().any(|p| p.message.contains("d.example"))).await;
    let accepted = it.change(SourceChangeKind::Accept("box".parse().unwrap())).await.unwrap();
    assert!(accepted.unconfirmed.is_empty() && accepted.problems.is_empty());
    it.reaches(0, &["d.example"]).await;
    fs::write(it.file(), "[upstream.\"e.example\"]\n").unwrap();
    it.until("held back once more", |loaded| !loaded.unconfirmed.is_empty()).await;
    // A server that starts knows only which files are mounted: what is not may allow nothing.
    it.change(SourceChangeKind::Remove("box".parse().unwrap())).await.unwrap();
    let file = SandboxFile { mounted: Some(BTreeSet::from([(0, 0, 0)])), ..it.sandbox("box", "p") };
    let adopted = it.change(SourceChangeKind::Adopt(file)).await.unwrap();
    assert!(adopted.projects[0].upstreams.is_empty() && adopted.problems.len() == 1, "{adopted:?}");
    it.stop.send(()).unwrap();
    it.task.await.unwrap().unwrap();
}
