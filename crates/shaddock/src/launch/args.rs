//! The command line of a program that has no flags of its own.

use std::{
    ffi::{OsStr, OsString},
    io::Write as _,
    path::{Path, PathBuf},
};

use super::error::LaunchError;
use crate::config::Sources;

/// The request of the command line.
#[derive(Debug)]
pub(super) enum Wanted {
    /// Servers.
    Run(Sources),
    /// Whether the configuration has mistakes.
    Check(Sources),
    /// This text.
    Text(String),
}

/// Reads the flags that follow the name of the program.
pub(super) fn parse(
    program: &OsStr,
    arguments: impl Iterator<Item = OsString>,
) -> Result<Wanted, LaunchError> {
    let (mut config, mut settings, mut check) = (None, Vec::new(), false);
    let mut arguments = arguments.map(text);
    while let Some(argument) = arguments.next() {
        let argument = argument?;
        let (flag, mut value) = match argument.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag, Some(value.to_owned())),
            _ => (&*argument, None),
        };
        let mut take = |what: &str| match value.take() {
            Some(value) => Ok(value),
            None => arguments
                .next()
                .unwrap_or_else(|| Err(wrong(format!("`{flag}` must be followed by {what}")))),
        };
        match flag {
            "--config" => config = Some(PathBuf::from(take("a file")?)),
            "--set" => settings.push(take("`section.key=value`")?),
            "--check" => check = true,
            "--version" | "-V" => return Ok(Wanted::Text(version(program))),
            "--help" | "-h" => return Ok(Wanted::Text(help(program))),
            _ => return Err(wrong(format!("`{argument}` is not a flag of this program"))),
        }
        if let Some(value) = value {
            return Err(wrong(format!(
                "`{flag}` takes no value, and `{value}` was given"
            )));
        }
    }
    let sources = Sources::of_process(config, settings);
    Ok(if check {
        Wanted::Check(sources)
    } else {
        Wanted::Run(sources)
    })
}

/// Prints and ends the process, successfully.
pub(super) fn end_with(text: &str) -> ! {
    // A closed pipe is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    std::process::exit(0)
}

fn text(argument: OsString) -> Result<String, LaunchError> {
    argument
        .into_string()
        .map_err(|argument| wrong(format!("`{}` is not Unicode", argument.display())))
}

fn wrong(text: String) -> LaunchError {
    LaunchError::Arguments(text)
}

fn name(program: &OsStr) -> String {
    let file = Path::new(program).file_name();
    file.map_or_else(|| "server".into(), OsStr::to_string_lossy)
        .into_owned()
}

fn version(program: &OsStr) -> String {
    format!(
        "{} on shaddock {}\n",
        name(program),
        env!("CARGO_PKG_VERSION")
    )
}

fn help(program: &OsStr) -> String {
    format!(
        "Usage: {} [--config FILE] [--set SECTION.KEY=VALUE]..\n\n\
         \x20 --config FILE            configuration file (TOML); also $SHADDOCK_CONFIG\n\
         \x20 --set SECTION.KEY=VALUE  one setting; weighs more than the environment and the file\n\
         \x20 --check                  say whether the configuration has mistakes, and end\n\
         \x20 --version, -V            say the version, and end\n\
         \x20 --help, -h               say this, and end\n\n\
         `shaddock config --reference` lists all settings.\n",
        name(program)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn parsed(arguments: &[&str]) -> Result<Wanted, String> {
        let arguments = arguments.iter().map(OsString::from);
        parse(OsStr::new("/opt/lobby"), arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn settings_are_taken_in_both_spellings() {
        for arguments in [
            ["--set", "session.single_session=true"].as_slice(),
            &["--set=session.single_session=true"],
        ] {
            let Ok(Wanted::Run(sources)) = parsed(arguments) else {
                panic!("{arguments:?}")
            };
            assert!(Config::load(&sources).unwrap().session.single_session);
        }
        let Ok(Wanted::Check(sources)) = parsed(&["--config", "/nowhere/x.toml", "--check"]) else {
            panic!("it only looks")
        };
        let error = Config::load(&sources).unwrap_err().to_string();
        assert!(error.contains("/nowhere/x.toml"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (arguments, told) in [
            (["--confg", "x"].as_slice(), "`--confg` is not a flag"),
            (&["lobby.toml"], "`lobby.toml` is not a flag"),
            (&["--config"], "`--config` must be followed by a file"),
            (&["--check=yes"], "`--check` takes no value"),
        ] {
            let error = parsed(arguments).unwrap_err();
            assert!(error.contains(told) && error.contains("--help"), "{error}");
        }
    }

    #[test]
    fn version_names_the_program() {
        let text = |flag| match parsed(&[flag]) {
            Ok(Wanted::Text(text)) => text,
            other => panic!("{other:?}"),
        };
        assert!(text("--version").starts_with("lobby on shaddock "));
        assert!(text("-h").starts_with("Usage: lobby "));
    }
}
