//! The tables of "coming from Pomelo" and "coming from Pitaya" name calls of ours: each of them is in the public API.
//!
//! The API is what the sources declare `pub`; no list is kept by hand.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

const PAGES: [&str; 4] = [
    "docs/coming-from-pomelo.md",
    "docs/zh-CN/coming-from-pomelo.md",
    "docs/coming-from-pitaya.md",
    "docs/zh-CN/coming-from-pitaya.md",
];

/// Names that are Rust's, tokio's or the shell's.
const FOREIGN: [&str; 24] = [
    "Arc",
    "Err",
    "Fn",
    "None",
    "Ok",
    "Option",
    "PIT",
    "Result",
    "SHADDOCK_",
    "SIGHUP",
    "SIGTERM",
    "Some",
    "Vec",
    "await",
    "debug",
    "default",
    "fn",
    "impl",
    "map",
    "ok_or_else",
    "prost",
    "self",
    "tokio",
    "tracing",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_'));
    &text[..end.unwrap_or(text.len())]
}

/// What the sources declare: public items, fields, variants, and what public traits have.
fn declared(text: &str, names: &mut BTreeSet<String>) {
    let mut inside = "";
    for line in text.lines() {
        let code = line.trim_start();
        if line == "}" {
            inside = "";
        }
        for block in ["pub trait ", "pub enum ", "choice! {", "section! {"] {
            if code.starts_with(block) && (line == code || inside == "choice! {") {
                inside = block;
            }
        }
        let rest = match code.strip_prefix("pub ") {
            Some(rest) => rest,
            None if inside == "pub trait " && code.starts_with("fn ") => code,
            None if inside == "pub enum "
                && line.starts_with("    ")
                && !line.starts_with("     ") =>
            {
                names.insert(identifier(code).to_owned());
                continue;
            }
            None => continue,
        };
        let mut words = rest.split_ascii_whitespace();
        let mut word = words.next().unwrap_or_default();
        while ["async", "const", "unsafe"].contains(&word) && !word.contains(':') {
            word = words.next().unwrap_or_default();
        }
        let name = match word {
            "fn" | "struct" | "enum" | "trait" | "type" | "mod" | "static" => {
                words.next().unwrap_or_default()
            }
            field => field,
        };
        names.insert(identifier(name).to_owned());
    }
    // Views are declared by a macro.
    for start in text.match_indices("view_of!(").map(|(at, _)| at) {
        for line in text[start..].lines().take(8) {
            names.insert(identifier(line.trim()).to_owned());
        }
    }
}

/// The cells of the last column of every table row, with the line that they are on.
fn cells(page: &str) -> Vec<(usize, String)> {
    let mut cells = Vec::new();
    for (number, line) in page.lines().enumerate() {
        if !line.starts_with("| ") || line.starts_with("| ---") {
            continue;
        }
        let row = line.trim_end().trim_end_matches('|');
        // A bar inside of code is no end of a cell.
        let (mut start, mut code) = (0, false);
        for (at, c) in row.char_indices() {
            match c {
                '`' => code = !code,
                '|' if !code => start = at + 1,
                _ => {}
            }
        }
        cells.push((number + 1, row[start..].to_owned()));
    }
    cells
}

/// What a piece of code names: calls, paths, fields, types.
fn named(code: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut at = 0;
    // What is between quotes is a value.
    while at < code.len() {
        let rest = &code[at..];
        let c = rest.chars().next().unwrap();
        if c == '"' {
            let end = rest[1..].find('"').map_or(rest.len(), |end| end + 2);
            at += end;
            continue;
        }
        if !(c.is_ascii_alphabetic() || c == '_') {
            at += c.len_utf8();
            continue;
        }
        let name = identifier(rest);
        let (before, after) = (&code[..at], &rest[name.len()..]);
        let is_part = before.ends_with('.') && !before.ends_with("..") || before.ends_with("::");
        let is_call = after.starts_with('(') || after.starts_with("::") || after.starts_with(" {");
        let is_type = name.chars().next().unwrap().is_ascii_uppercase() && name.len() > 1;
        if is_part || is_call || is_type {
            names.push(name);
        }
        at += name.len();
    }
    names
}

/// Stands before a block of code that is part of a file.
const FROM: &str = "<!-- code: ";

/// What guides show of programs and tests is in a file that is compiled and run, word for word.
#[test]
fn longer_code_of_the_guides_is_in_files_that_are_run() {
    let plain = |text: &str| text.split_whitespace().collect::<String>();
    let mut checked = 0;
    for folder in ["docs", "docs/zh-CN"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|end| end != "md") {
                continue;
            }
            let page = std::fs::read_to_string(&path).unwrap();
            for part in page.split(FROM).skip(1) {
                let (file, rest) = part.split_once(" -->").unwrap();
                let block = rest.split_once("```rust,ignore\n").unwrap().1;
                let (code, _) = block.split_once("```").unwrap();
                let text = std::fs::read_to_string(root().join(file)).unwrap();
                assert!(
                    plain(&text).contains(&plain(code)),
                    "{}: this is not in {file}:\n{code}",
                    path.display()
                );
                checked += 1;
            }
        }
    }
    assert!(checked >= 12, "{checked}");
}

/// Rustdoc hides lines that begin with `# `, and GitHub shows them: examples are read there.
#[test]
fn examples_have_no_hidden_lines() {
    let mut pages = vec![root().join("README.md"), root().join("README.zh-CN.md")];
    for folder in ["docs", "docs/protocol", "docs/zh-CN", "docs/zh-CN/protocol"] {
        let entries = std::fs::read_dir(root().join(folder)).unwrap();
        pages.extend(entries.map(|entry| entry.unwrap().path()));
    }
    let mut examples = 0;
    for page in pages
        .iter()
        .filter(|page| page.extension().is_some_and(|end| end == "md"))
    {
        let text = std::fs::read_to_string(page).unwrap();
        for block in text.split("\n```rust").skip(1) {
            let code = block.split("\n```").next().unwrap();
            let hidden = code
                .lines()
                .skip(1)
                .find(|line| *line == "#" || line.starts_with("# "));
            assert_eq!(hidden, None, "{}", page.display());
            examples += 1;
        }
    }
    assert!(examples > 80, "{examples}");
}

#[test]
fn what_the_tables_name_exists() {
    let mut files = Vec::new();
    for name in [
        "",
        "-core",
        "-net",
        "-protocol",
        "-cluster",
        "-client",
        "-macros",
    ] {
        sources(
            &root().join(format!("crates/shaddock{name}/src")),
            &mut files,
        );
    }
    let mut api = BTreeSet::new();
    for file in files {
        declared(&std::fs::read_to_string(file).unwrap(), &mut api);
    }
    assert!(api.len() > 1000, "{}", api.len());
    let settings = std::fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let settings: BTreeSet<&str> = settings
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let mut unknown = Vec::new();
    let mut checked = 0;
    for page in PAGES {
        let text = std::fs::read_to_string(root().join(page)).unwrap();
        for (line, cell) in cells(&text) {
            for code in cell.split('`').skip(1).step_by(2) {
                for name in named(code) {
                    checked += 1;
                    let is_known =
                        api.contains(name) || settings.contains(name) || FOREIGN.contains(&name);
                    // One letter stands for something of the reader's.
                    if !is_known && name.len() > 1 {
                        unknown.push(format!("{page}:{line}: `{name}` in `{code}`"));
                    }
                }
            }
        }
    }
    assert!(checked > 500, "{checked}");
    assert!(
        unknown.is_empty(),
        "no such thing is public:\n{}",
        unknown.join("\n")
    );
}

/// What is shown as small stays so.
#[test]
fn examples_are_as_short_as_the_guides_claim() {
    for (file, most) in [
        ("examples/lobby/src/main.rs", 300),
        ("crates/shaddock-cli/src/demo/chat.rs", 200),
    ] {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        let lines = text.lines().count();
        assert!(lines <= most, "{file} has {lines} lines, and {most} may be");
    }
}
