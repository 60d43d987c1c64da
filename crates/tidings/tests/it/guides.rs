//! What the pages show of a terminal is what a terminal shows.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::custom_events::on_plan;
use crate::harness::{BINARY, Server};

const CUSTOM_EVENTS: &str = include_str!("../../../../docs/custom-events.md");

/// The text between two lines.
fn between<'t>(text: &'t str, from: &str, to: &str) -> &'t str {
    let (_, after) = text.split_once(from).expect("the beginning stands there");
    after.split_once(to).expect("and the end").0
}

/// Each command of a section, with what follows it there.
fn commands(section: &str) -> Vec<(&str, String)> {
    let blocks = section.split("```console\n").skip(1);
    let lines = blocks.flat_map(|block| {
        let block = block.split_once("```").expect("a block ends").0;
        block.lines()
    });
    let mut commands: Vec<(&str, String)> = Vec::new();
    for line in lines {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command, String::new())),
            (None, Some((_, printed))) => printed.extend([line, "\n"]),
            (None, None) => panic!("nothing printed this: {line}"),
        }
    }
    commands
}

#[test]
fn a_schema_evolves_as_the_guide_prints_it() {
    let server = Server::start();
    let token = on_plan(&server, "acme", "PRO");
    let section = between(CUSTOM_EVENTS, "\n## Evolve a schema\n", "\n## ");
    let first = between(section, "```json\n", "```");
    let first: Value = serde_json::from_str(first).expect("JSON");
    let mut second = first.clone();
    second["properties"]["favoritedAt"] = json!({ "type": "string", "format": "date-time" });
    let mut third = second.clone();
    third["properties"]["propertyId"]["maxLength"] = json!(32);
    let folder = server.folder.path();
    for (name, schema) in [("v1", first), ("v2", second), ("v3", third)] {
        let file = folder.join(format!("{name}.json"));
        std::fs::write(file, schema.to_string()).expect("a file");
    }
    let tidings = Path::new(BINARY).parent().expect("a folder");
    let path = std::env::var("PATH").expect("a path");
    let commands = commands(section);
    assert!(commands.len() > 9, "{commands:?}");
    let mut code = None;
    for (command, printed) in commands {
        if command == "echo $?" {
            assert_eq!(printed.trim(), format!("{}", code.expect("a command")));
            continue;
        }
        let run = Command::new("sh")
            .args(["-c", &format!("{command} -o table 2>&1")])
            .current_dir(folder)
            .env("PATH", format!("{}:{path}", tidings.display()))
            .env("TIDINGS_URL", format!("http://{}", server.address))
            .env("TIDINGS_TOKEN", &token)
            .env_remove("TIDINGS_PROFILE")
            .output()
            .expect("it runs");
        assert_eq!(String::from_utf8_lossy(&run.stdout), printed, "{command}");
        code = run.status.code();
    }
}
