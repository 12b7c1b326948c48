//! One list of metrics: what a running server shows is what the guide has a row for, in both languages, and rules and dashboard ask for nothing else.

use std::{collections::BTreeSet, path::Path};

use serde_json::Value;
use shaddock::{operations::Operations, prelude::*};

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read_to_string(root.join(path)).unwrap()
}

/// The value of a counter or a gauge of the first server.
pub(crate) fn value(running: &Running, name: &str) -> u64 {
    let operations = Operations::new();
    operations.running(running.apps());
    let page = shaddock::metrics::render(&operations);
    let server = format!("{name}{{server=\"{}\"", running.apps()[0].id());
    let line = page.lines().find(|line| line.starts_with(&server));
    let line = line.unwrap_or_else(|| panic!("no {server} in {page}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// The names under which Prometheus keeps what a server shows.
async fn shown() -> BTreeSet<String> {
    let mut app = App::new("connector", "connector-1");
    app.listen("127.0.0.1:0");
    let running = Servers::new().add(app).start().await.unwrap();
    let operations = Operations::new();
    operations.running(running.apps());
    let text = shaddock::metrics::render(&operations);
    running.shutdown().await;
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    families
        .map(|family| match family.split_once(' ').unwrap() {
            (name, "counter") => format!("{name}_total"),
            (name, _) => name.to_owned(),
        })
        .collect()
}

/// The names in the table of a guide, whose head is this.
fn documented(path: &str, head: &str) -> BTreeSet<String> {
    let text = read(path);
    let (_, table) = text.split_once(head).expect("the table is there");
    let rows = table.lines().skip(2).take_while(|row| row.starts_with('|'));
    let cells = rows.map(|row| row.split('|').nth(1).unwrap().to_owned());
    let names = cells.flat_map(|cell| {
        let quoted: Vec<String> = cell
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect();
        quoted
    });
    names
        .map(|name| {
            let name = name.split('{').next().unwrap();
            if name.starts_with("process_") {
                name.to_owned()
            } else {
                format!("shaddock_{name}")
            }
        })
        .collect()
}

/// The names in a query. `_bucket`, `_count` and `_sum` are of the same histogram.
fn asked(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !is_part(c));
    let ours = words.filter(|word| word.starts_with("shaddock_") || word.starts_with("process_"));
    ours.map(|word| {
        let histogram = ["_bucket", "_count", "_sum"];
        let base = histogram.iter().find_map(|end| word.strip_suffix(end));
        base.unwrap_or(word).to_owned()
    })
    .collect()
}

fn not_in(some: &BTreeSet<String>, all: &BTreeSet<String>) -> Vec<String> {
    some.difference(all).cloned().collect()
}

#[tokio::test]
async fn the_guide_has_every_metric_and_no_other() {
    let shown = shown().await;
    assert!(shown.len() > 60, "{shown:?}");
    for (path, head) in [
        ("docs/operations.md", "| metric | meaning |"),
        ("docs/zh-CN/operations.md", "| 指标 | 含义 |"),
    ] {
        let documented = documented(path, head);
        assert_eq!(not_in(&shown, &documented), [""; 0], "not in {path}");
        assert_eq!(not_in(&documented, &shown), [""; 0], "only in {path}");
    }
}

#[tokio::test]
async fn rules_and_dashboard_ask_for_what_is_shown() {
    let shown = shown().await;
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/shaddock.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    let queries: Vec<&str> = targets
        .map(|target| target["expr"].as_str().unwrap())
        .collect();
    for (file, text) in [
        ("dashboard", queries.join("\n")),
        ("alerts", read("deploy/prometheus/alerts.yml")),
        ("alerts' test", read("deploy/prometheus/alerts.test.yml")),
    ] {
        let asked = asked(&text);
        assert!(asked.len() > 10, "{file}: {asked:?}");
        assert_eq!(not_in(&asked, &shown), [""; 0], "{file}");
    }
}

#[test]
fn panels_do_not_cover_each_other() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/shaddock.json")).unwrap();
    let (mut places, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(x < 24 && places.insert((x, y)), "{panel}");
            }
        }
    }
}
