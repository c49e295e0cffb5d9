//! Which folders to watch for a set of files, and which names in them matter.
//!
//! A file is found through names: its own, and those of the symlinks on the way to it. Any of them may be replaced (an editor
//! renames a new file over the old one; Kubernetes swaps the symlink `..data`), and each replacement shows as an event in
//! the folder that holds the name. So folders are watched, never files.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// As many symlinks as Linux follows in one path.
const MAX_LINKS: usize = 40;

/// What to watch. All paths are free of symlinks up to their last part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The names that matter: the files, each symlink on the way to one, and the first missing part of each path.
    pub(crate) names: BTreeSet<PathBuf>,
    /// The existing folders that hold these names.
    pub(crate) folders: BTreeSet<PathBuf>,
    /// Paths whose folder is missing.
    pub(crate) without_folder: BTreeSet<PathBuf>,
}

impl Plan {
    /// The plan for these absolute paths, as the file system is now.
    pub(crate) fn of<'a>(files: impl Iterator<Item = &'a Path>) -> Self {
        let mut plan = Self::default();
        for file in files {
            plan.trace(file);
        }
        plan
    }

    /// Whether an event at `path` can change what the files hold.
    pub(crate) fn concerns(&self, path: &Path) -> bool {
        self.names.contains(path) || self.folders.contains(path)
    }

    /// Follows `file` part by part, as the kernel does.
    fn trace(&mut self, file: &Path) {
        let mut todo = parts(file);
        let mut here = PathBuf::from("/");
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == ".." {
                here.pop();
                continue;
            }
            let name = here.join(&part);
            match fs::symlink_metadata(&name) {
                Ok(metadata) if metadata.is_symlink() => {
                    self.add(&here, name.clone());
                    links += 1;
                    let Ok(target) = fs::read_link(&name) else { return };
                    if links > MAX_LINKS {
                        return;
                    }
                    if target.is_absolute() {
                        here = PathBuf::from("/");
                    }
                    todo.extend(parts(&target));
                }
                Ok(_) if todo.is_empty() => self.add(&here, name),
                Ok(_) => here = name,
                Err(_) => {
                    if !todo.is_empty() {
                        self.without_folder.insert(file.to_owned());
                    }
                    self.add(&here, name);
                    return;
                }
            }
        }
    }

    fn add(&mut self, folder: &Path, name: PathBuf) {
        self.folders.insert(folder.to_owned());
        self.names.insert(name);
    }
}

/// The parts of a path, the first one last.
fn parts(path: &Path) -> Vec<OsString> {
    let part = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_name_on_the_way_matters() {
        let temp = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(temp.path()).unwrap();
        for folder in ["mount/..v1", "real/deep"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("mount/..v1/c.toml"), "").unwrap();
        symlink("..v1", root.join("mount/..data")).unwrap();
        symlink("..data/c.toml", root.join("mount/c.toml")).unwrap();
        symlink(root.join("mount"), root.join("real/deep/link")).unwrap();

        let file = root.join("real/deep/../deep/link/c.toml");
        let plan = Plan::of([file.as_path()].into_iter());
        let names: Vec<_> = plan.names.iter().map(|path| path.strip_prefix(&root).unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["mount/..data", "mount/..v1/c.toml", "mount/c.toml", "real/deep/link"]);
        assert!(plan.folders.contains(&root.join("mount/..v1")) && plan.folders.contains(&root.join("real/deep")));
        assert!(plan.without_folder.is_empty());
        assert!(!plan.concerns(&root.join("mount/.c.toml.swp")) && !plan.concerns(&root.join("mount/4913")));
    }

    #[test]
    fn a_missing_folder_is_awaited_in_the_nearest_one_that_exists() {
        let temp = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(temp.path()).unwrap();
        let file = root.join("a/b/c.toml");
        let plan = Plan::of([file.as_path()].into_iter());
        assert_eq!(plan.names.iter().collect::<Vec<_>>(), [&root.join("a")]);
        assert_eq!(plan.folders.iter().collect::<Vec<_>>(), [&root]);
        assert!(plan.without_folder.contains(&file));
    }

    #[test]
    fn a_loop_of_symlinks_ends() {
        let temp = tempfile::tempdir().unwrap();
        symlink("b", temp.path().join("a")).unwrap();
        symlink("a", temp.path().join("b")).unwrap();
        let plan = Plan::of([temp.path().join("a").as_path()].into_iter());
        assert_eq!(plan.names.len(), 2);
    }
}
