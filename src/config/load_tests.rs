use std::fs;

use super::*;

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn gateway(&self, name: &str, id: &str, port: u16, host: &str) {
        let text = format!("[gateway]\nname = \"{id}\"\nlisten = \"127.0.0.1:{port}\"\n[upstream.\"{host}\"]\n");
        self.write(name, &text);
    }

    fn sources(&self, names: &[&str]) -> Sources {
        Sources { projects: names.iter().map(|name| self.path(name)).collect(), vault: None }
    }
}

fn ids(loaded: &Loaded) -> Vec<String> {
    loaded
        .projects
        .iter()
        .map(|project| {
            let hosts: Vec<_> = project.upstreams.keys().map(ToString::to_string).collect();
            format!("{} {}", project.id, hosts.join(","))
        })
        .collect()
}

const TOKEN: &str = "[credentials.\"a.example\"]\ntype = \"bearer\"\ntoken = { provider = \"env\", name = \"A\" }\n";

#[test]
fn the_first_load_wants_everything_right() {
    let files = Files::new();
    files.gateway("a.toml", "a", 1, "a.example");
    files.write("b.toml", "[x]");
    let mut sources = files.sources(&["a.toml", "b.toml", "c.toml"]);
    sources.vault = Some(VaultSource::Given(files.path("v.toml")));
    let problems = Loader::load(&sources).unwrap_err();
    let names: Vec<_> = problems.0.iter().map(|d| d.file.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["b.toml", "c.toml", "v.toml"]);
    sources.projects.truncate(1);
    sources.vault = Some(VaultSource::Default(files.path("v.toml")));
    let loader = Loader::load(&sources).unwrap();
    assert_eq!((loader.loaded().generation, loader.loaded().broken), (1, false));
    assert_eq!(*loader.loaded().vault, VaultConfig::default());
}

#[test]
fn a_broken_file_keeps_its_last_good_version_and_holds_nothing_else_back() {
    let files = Files::new();
    files.gateway("a.toml", "a", 1, "a.example");
    files.gateway("b.toml", "b", 2, "b.example");
    let mut loader = Loader::load(&files.sources(&["a.toml", "b.toml"])).unwrap();
    assert_eq!(loader.reload(), None);

    files.write("a.toml", "[gateway]\nlisten = 1\n");
    files.gateway("b.toml", "b", 2, "b2.example");
    let loaded = loader.reload().unwrap();
    assert_eq!(ids(&loaded), ["a a.example", "b b2.example"]);
    assert_eq!((loaded.generation, loaded.broken), (2, true));
    assert_eq!((loaded.problems[0].line, loaded.problems[0].column), (2, 10));
    assert_eq!(loader.reload(), None);

    // Another problem is news, but no new generation.
    fs::remove_file(files.path("a.toml")).unwrap();
    let loaded = loader.reload().unwrap();
    assert_eq!((loaded.generation, loaded.broken), (2, true));
    assert!(loaded.problems[0].message.starts_with("cannot be read"));

    // Repaired to what is in force already: no new generation either.
    files.gateway("a.toml", "a", 1, "a.example");
    let loaded = loader.reload().unwrap();
    assert_eq!((loaded.generation, loaded.broken), (2, false));
    files.gateway("a.toml", "a", 1, "a2.example");
    assert_eq!(loader.reload().unwrap().generation, 3);
}

#[test]
fn a_file_that_became_empty_is_a_write_cut_short() {
    let files = Files::new();
    files.gateway("a.toml", "a", 1, "a.example");
    files.write("v.toml", TOKEN);
    let mut sources = files.sources(&["a.toml"]);
    sources.vault = Some(VaultSource::Given(files.path("v.toml")));
    let mut loader = Loader::load(&sources).unwrap();
    files.write("a.toml", "");
    files.write("v.toml", "\n");
    let loaded = loader.reload().unwrap();
    assert_eq!(ids(&loaded), ["a a.example"]);
    assert_eq!(loaded.vault.credentials.len(), 1);
    assert_eq!(loaded.problems.len(), 2);
    files.write("v.toml", "# none\n");
    let loaded = loader.reload().unwrap();
    assert_eq!((loaded.vault.credentials.len(), loaded.generation), (0, 2));
}

#[test]
fn two_projects_share_neither_name_nor_address() {
    let files = Files::new();
    files.gateway("a.toml", "a", 1, "a.example");
    files.gateway("b.toml", "a", 2, "b.example");
    files.write("c.toml", "[gateway]\nname = \"c\"\nlisten = \"0.0.0.0:1\"\n");
    let problems = Loader::load(&files.sources(&["a.toml", "b.toml", "c.toml"])).unwrap_err();
    assert_eq!(problems.0.len(), 2);
    assert!(problems.0[0].message.starts_with("the name `a` is taken by "), "{problems}");
    assert!(problems.0[0].file.ends_with("b.toml"));
    assert_eq!((problems.0[1].line, &problems.0[1].message[..32]), (3, "the address 0.0.0.0:1 is taken b"));

    // The same file twice is a clash, too.
    assert!(Loader::load(&files.sources(&["a.toml", "a.toml"])).is_err());
}

#[test]
fn the_edit_that_causes_a_clash_is_the_one_that_waits() {
    let files = Files::new();
    files.gateway("a.toml", "a", 1, "a.example");
    files.gateway("b.toml", "b", 2, "b.example");
    let mut loader = Loader::load(&files.sources(&["a.toml", "b.toml"])).unwrap();

    files.gateway("a.toml", "b", 1, "new.example");
    let loaded = loader.reload().unwrap();
    assert_eq!(ids(&loaded), ["a a.example", "b b.example"]);
    assert!(loaded.problems[0].file.ends_with("a.toml"), "{:?}", loaded.problems);

    // Once the other moves away, the waiting edit applies, though its file was not touched again.
    files.gateway("b.toml", "a", 2, "b.example");
    let loaded = loader.reload().unwrap();
    assert_eq!(ids(&loaded), ["b new.example", "a b.example"]);
    assert_eq!(loaded.problems, []);

    // Both edited to the same: the later file gives way.
    files.gateway("a.toml", "x", 1, "a.example");
    files.gateway("b.toml", "x", 2, "b.example");
    let loaded = loader.reload().unwrap();
    assert_eq!(ids(&loaded), ["x a.example", "a b.example"]);
    assert!(loaded.problems[0].file.ends_with("b.toml"));
}

#[test]
fn the_vault_at_its_usual_place_may_come_later_but_not_go() {
    let files = Files::new();
    files.gateway("a.toml", "a", 1, "a.example");
    let mut sources = files.sources(&["a.toml"]);
    sources.vault = Some(VaultSource::Default(files.path("v.toml")));
    let mut loader = Loader::load(&sources).unwrap();
    files.write("v.toml", TOKEN);
    assert_eq!(loader.reload().unwrap().vault.credentials.len(), 1);
    fs::remove_file(files.path("v.toml")).unwrap();
    let loaded = loader.reload().unwrap();
    assert_eq!((loaded.vault.credentials.len(), loaded.broken), (1, true));
}

#[test]
fn a_changed_ca_file_is_a_change() {
    let files = Files::new();
    let (ca, _) = crate::config::ca::tests::make_ca();
    files.write("ca.pem", &ca);
    files.write("agent-creds.toml", "[upstream.\"a.example\"]\nca = \"ca.pem\"\n");
    let sources = Sources { projects: vec![files.folder.path().to_owned()], vault: None };
    let mut loader = Loader::load(&sources).unwrap();
    let before = loader.loaded();
    files.write("ca.pem", &crate::config::ca::tests::make_ca().0);
    let loaded = loader.reload().unwrap();
    assert_eq!(loaded.generation, 2);
    assert_ne!(loaded.projects[0].upstreams, before.projects[0].upstreams);
    files.write("ca.pem", "gone");
    let loaded = loader.reload().unwrap();
    assert_eq!((loaded.generation, loaded.broken), (2, true));
    assert_eq!(loader.files().count(), 2);
}
