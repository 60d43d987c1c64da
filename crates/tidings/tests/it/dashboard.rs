//! The dashboard that comes along asks for nothing that is not served, and leaves out nothing that is.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::Server;

const DASHBOARD: &str = include_str!("../../../../deploy/grafana/tidings.json");

/// The names of metrics in a text, without what a histogram's series append to them.
fn named(text: &str) -> BTreeSet<String> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let names = text.split(word).filter(|word| word.starts_with("tidings_"));
    let series = ["_bucket", "_count", "_sum"];
    names
        .map(|name| {
            let ending = series.iter().find_map(|ending| name.strip_suffix(ending));
            ending.unwrap_or(name).to_owned()
        })
        .collect()
}

#[test]
fn the_dashboard_shows_each_metric_and_no_other() {
    let server = Server::start();
    server.call("GET", "/healthz").send().expect(200);
    let metrics = server.call("GET", "/metrics").send().expect(200).text();
    let samples = metrics.lines().filter(|line| !line.starts_with('#'));
    let published = named(&samples.collect::<Vec<_>>().join("\n"));

    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    let asked = targets.map(|target| target["expr"].as_str().unwrap());
    let shown = named(&asked.collect::<Vec<_>>().join("\n"));
    assert_eq!(shown, published);

    let documented = named(include_str!("../../../../docs/operations.md"));
    assert_eq!(
        published.difference(&documented).collect::<Vec<_>>(),
        Vec::<&String>::new()
    );
}
