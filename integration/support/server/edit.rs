//! The ways in which people and programs save a file.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::time::Duration;

use super::{Ready, Server, config};

impl Server {
    /// The text of a configuration with this server's gateway and these `[upstream."…"]` sections.
    pub fn config_text(&self, upstreams: &str) -> String {
        config::gateway(self.addr(), upstreams)
    }

    /// Saves these upstreams (see [`Server::write_config`]) and waits until they are served.
    ///
    /// # Panics
    /// If they are what is served already: then nothing would happen.
    pub async fn apply(&self, upstreams: &str) -> Ready {
        let generation = self.generation().await;
        self.write_config(&self.config_text(upstreams));
        self.wait_generation(generation + 1).await
    }

    /// Saves a configuration that must be refused, and waits until `/readyz` says so. The last good one stays.
    pub async fn apply_broken(&self, text: &str) -> Ready {
        self.write_config(text);
        self.wait_for("the configuration is refused", |ready| !ready.config_ok()).await
    }

    /// Saves by writing a file beside it and renaming that over it: one step, never half of it.
    pub fn write_config(&self, text: &str) {
        let partial = self.dir().join("config/.agent-creds.toml.partial");
        fs::write(&partial, text).unwrap();
        fs::rename(partial, self.config_file()).unwrap();
    }

    /// Saves as `cat >` does: the file is empty for `pause`, then comes the text, in two pieces with another `pause`.
    pub fn write_config_truncating(&self, text: &str, pause: Duration) {
        let mut file = fs::File::create(self.config_file()).unwrap();
        std::thread::sleep(pause);
        let middle = text.len() / 2;
        file.write_all(&text.as_bytes()[..middle]).unwrap();
        file.flush().unwrap();
        std::thread::sleep(pause);
        file.write_all(&text.as_bytes()[middle..]).unwrap();
    }

    /// Saves as vim does: a swap file appears, the old file becomes a backup, a new one is written, the others go.
    pub fn write_config_like_vim(&self, text: &str) {
        let folder = self.dir().join("config");
        let (swap, backup) = (folder.join(".agent-creds.toml.swp"), folder.join("agent-creds.toml~"));
        fs::write(&swap, "b0VIM 9.0").unwrap();
        fs::write(folder.join("4913"), "").unwrap();
        fs::remove_file(folder.join("4913")).unwrap();
        fs::rename(self.config_file(), &backup).unwrap();
        fs::write(self.config_file(), text).unwrap();
        fs::remove_file(backup).unwrap();
        fs::remove_file(swap).unwrap();
    }

    /// Saves as Kubernetes does: the file is a link into `..data`, a link to a folder of this version, which is swapped.
    pub fn write_config_like_kubernetes(&self, text: &str, version: u32) {
        let folder = self.dir().join("config");
        let name = format!("..version_{version}");
        fs::create_dir(folder.join(&name)).unwrap();
        fs::write(folder.join(&name).join("agent-creds.toml"), text).unwrap();
        symlink(&name, folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
        if !self.config_file().is_symlink() {
            symlink("..data/agent-creds.toml", folder.join("link_tmp")).unwrap();
            fs::rename(folder.join("link_tmp"), self.config_file()).unwrap();
        }
    }
}
