//! `shaddock new`: a project that builds and passes its own test.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn clone() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// A folder for projects, gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("shaddock-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    /// Makes the project `hello`.
    fn make(&self, arguments: &[&str]) -> PathBuf {
        let made = Command::new(env!("CARGO_BIN_EXE_shaddock"))
            .args(["new", "hello"])
            .args(arguments)
            .current_dir(&self.0)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        self.0.join("hello")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn an_image_of_a_project_with_a_path_needs_a_word() {
    let note = "outside of this folder";
    let scratch = Scratch::new("docker");
    let project = scratch.make(&["--shaddock", clone().to_str().unwrap()]);
    let text = fs::read_to_string(project.join("Dockerfile")).unwrap();
    assert!(text.starts_with("# ") && text.contains(note), "{text}");
    fs::remove_dir_all(&project).unwrap();
    let text = fs::read_to_string(scratch.make(&[]).join("Dockerfile")).unwrap();
    assert!(text.starts_with("FROM ") && !text.contains(note), "{text}");
}

#[test]
#[ignore = "builds shaddock once more, as a dependency of a project: `scripts/test new` runs it"]
fn a_new_project_builds_and_passes() {
    let scratch = Scratch::new("new");
    let project = scratch.make(&["--shaddock", clone().to_str().unwrap()]);
    // The versions that are tested here.
    fs::copy(clone().join("Cargo.lock"), project.join("Cargo.lock")).unwrap();
    for arguments in [
        &["test"][..],
        &["run", "--", "--config", "server.toml", "--check"],
    ] {
        let run = Command::new(env!("CARGO"))
            .args(arguments)
            .current_dir(&project)
            .env("CARGO_TARGET_DIR", clone().join("target/new"))
            .output()
            .unwrap();
        assert!(run.status.success(), "{arguments:?}: {run:?}");
    }
}
