//! `shaddock new`

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;

use super::{Outcome, table::print_line};

const MANIFEST: &str = include_str!("template/Cargo.toml.txt");
const PROGRAM: &str = include_str!("template/main.rs");
const CONFIG: &str = include_str!("template/server.toml");
const DOCKERFILE: &str = include_str!("template/Dockerfile");

/// Begin a project: a server with a test, its configuration and a Dockerfile.
#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// Name of the project, and of the folder that is made for it
    name: String,
    /// A clone of shaddock to build with, instead of its repository
    #[arg(long, value_name = "FOLDER")]
    shaddock: Option<PathBuf>,
}

pub(crate) fn run(args: &NewArgs) -> Outcome {
    let name = &args.name;
    if !is_name(name) {
        return Err(format!(
            "\"{name}\" is not a valid project name: write letters, digits, `-` and `_`, a letter first"
        )
        .into());
    }
    let folder = Path::new(name);
    let source = |crate_name: &str| match &args.shaddock {
        Some(clone) => {
            let path = fs::canonicalize(clone.join("crates").join(crate_name));
            path.map(|path| format!("path = {:?}", path.display().to_string()))
        }
        None => Ok("git = \"https://github.com/shaddock-rs/shaddock\"".to_owned()),
    };
    let clone = |error| format!("`--shaddock` is not a clone of shaddock: {error}");
    let manifest = MANIFEST
        .replace("{name}", name)
        .replace("{shaddock}", &source("shaddock").map_err(clone)?)
        .replace("{client}", &source("shaddock-client").map_err(clone)?);
    // Docker copies this folder, and no other one.
    let note = args.shaddock.as_ref().map_or("", |_| {
        "# shaddock is a path outside of this folder, which Docker cannot read: write its repository in Cargo.toml before you build an image.\n"
    });
    let dockerfile = [note, &DOCKERFILE.replace("{name}", name)].concat();
    fs::create_dir(folder).map_err(|error| {
        format!("the folder `{name}` cannot be made, and nothing was written: {error}")
    })?;
    fs::create_dir(folder.join("src"))?;
    for (file, text) in [
        ("Cargo.toml", &*manifest),
        ("src/main.rs", PROGRAM),
        ("server.toml", CONFIG),
        ("Dockerfile", &dockerfile),
        (".gitignore", "/target\n"),
        (".dockerignore", "target\n"),
    ] {
        fs::write(folder.join(file), text)?;
    }
    print_line(&format!(
        "{name} is there. Next:\n\n    cd {name}\n    cargo test\n    cargo run -- --config server.toml\n"
    ));
    Ok(ExitCode::SUCCESS)
}

/// Whether cargo accepts the name for a package with a program.
fn is_name(name: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    // Folders that cargo makes beside programs.
    let is_reserved = ["build", "deps", "examples", "incremental"].contains(&name);
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(fine) && !is_reserved
}

/// The program of the template, with its own test.
#[cfg(test)]
#[allow(dead_code, clippy::unwrap_used, reason = "it is a program of its own")]
#[path = "template/main.rs"]
mod program;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_packages() {
        for (name, fine) in [
            ("lobby", true),
            ("my-game_2", true),
            ("", false),
            ("2d", false),
            ("a/b", false),
            ("..", false),
            ("deps", false),
        ] {
            assert_eq!(is_name(name), fine, "{name}");
        }
    }

    #[test]
    fn the_configuration_of_the_template_is_one() {
        let file = std::env::temp_dir().join(format!("shaddock-new-{}.toml", std::process::id()));
        fs::write(&file, CONFIG).unwrap();
        let loaded =
            shaddock::config::Config::load(&shaddock::config::Sources::default().file(&file));
        fs::remove_file(&file).unwrap();
        assert!(loaded.is_ok(), "{loaded:?}");
    }
}
