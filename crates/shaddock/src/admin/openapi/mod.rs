//! The routes of the admin server as a table: the guard looks up scopes in it, the response for unknown paths lists it, and the OpenAPI
//! document is generated from it.

mod examples;
mod routes;
mod schemas;

use serde_json::{Map, Value, json};

pub(super) use self::routes::{ROUTES, Route, list, scope_of};
use self::schemas::schemas;
use super::tokens::Scope;

/// The OpenAPI document.
pub(super) fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES {
        let at = paths.entry(route.path).or_insert_with(|| json!({}));
        at[route.method.to_ascii_lowercase()] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "shaddock",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "The admin server and server API of a process",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas(),
        },
    })
}

/// The parameters of the query.
fn queries(path: &str) -> &'static [&'static str] {
    match path {
        "/api/sessions" | "/api/cluster/sessions" => &[
            "where",
            "uid",
            "address",
            "frontend",
            "transport",
            "client",
            "version",
            "platform",
            "limit",
            "after",
        ],
        "/api/cluster/load" => &["after_ms"],
        "/api/cluster/events" => &["sid", "uid", "address", "event", "reason", "limit"],
        "/api/cluster/audiences" => &["kind", "name", "limit", "after"],
        "/api/cluster/audiences/members" => &["key", "limit", "after"],
        _ => &[],
    }
}

fn operation(route: &Route) -> Value {
    let reference = |name: &str| match name {
        "Any" => json!({"type": "object"}),
        "Nothing" => json!({"type": "object", "additionalProperties": false}),
        "Text" => json!({"type": "string"}),
        name => json!({"$ref": format!("#/components/schemas/{name}")}),
    };
    let media = if route.answer == "Text" {
        "text/plain"
    } else {
        "application/json"
    };
    let words = route.path.split(['/', '.']).filter(|word| !word.is_empty());
    let words: Vec<&str> = words.map(|word| word.trim_matches(['{', '}'])).collect();
    let is_call = route.body == Some("CallRequest");
    let any = if is_call { "the command's" } else { "any" };
    let scope = route.scope.map_or(any, Scope::name);
    let mut parameters: Vec<Value> = route
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    for name in queries(route.path) {
        parameters.push(
            json!({"name": name, "in": "query", "required": *name == "key", "schema": {"type": "string"}}),
        );
    }
    if is_call {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "1 to 255 visible ASCII characters: a request that is repeated within ten minutes is answered as the first time and not carried out again",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255},
        }));
    }
    let error = json!({"application/json": {"schema": reference("ErrorBody")}});
    let mut operation = json!({
        "operationId": format!("{}_{}", route.method.to_ascii_lowercase(), words.join("_")),
        "summary": route.summary,
        "description": format!("Scope: {scope}."),
        "parameters": parameters,
        "responses": {
            route.status.to_string(): {
                "description": "Done.",
                "content": {media: {"schema": reference(route.answer)}},
            },
            "default": {"description": "What is wrong and what to do.", "content": error},
        },
    });
    if let Some(body) = route.body {
        operation["requestBody"] = json!({
            "required": true,
            "content": {"application/json": {"schema": reference(body)}},
        });
    }
    operation
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::admin::commands::Command;

    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    match value.as_str() {
                        Some(to) if name == "$ref" => drop(found.insert(to.to_owned())),
                        _ => references(value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn the_document_holds_together() {
        let document = document();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for to in found {
            let pointer = to.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{to}");
        }
        let paths = document["paths"].as_object().unwrap();
        let operations = paths
            .values()
            .flat_map(|path| path.as_object().unwrap().values());
        let ids: Vec<&str> = operations
            .map(|one| one["operationId"].as_str().unwrap())
            .collect();
        let different: BTreeSet<&&str> = ids.iter().collect();
        assert_eq!((ids.len(), different.len()), (ROUTES.len(), ROUTES.len()));
        assert_eq!(document["openapi"], "3.1.0");
    }

    /// The document contains every command that can be parsed, and no other.
    #[test]
    fn all_commands_are_there() {
        let error = serde_json::from_str::<Command>(r#"{"fly": {}}"#)
            .unwrap_err()
            .to_string();
        let listed = error.split('`').skip(3).step_by(2).map(str::to_owned);
        let listed: BTreeSet<String> = listed.collect();
        let document = document();
        let one_of = document
            .pointer("/components/schemas/Command/oneOf")
            .unwrap();
        let documented = one_of
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["required"][0].as_str().unwrap().to_owned());
        assert_eq!(listed, documented.collect());
    }

    #[test]
    fn scopes_come_from_the_table() {
        for (method, path, scope) in [
            ("GET", "/api/sessions", Some(Scope::Read)),
            ("GET", "/api/sessions/7", Some(Scope::Read)),
            ("HEAD", "/metrics", Some(Scope::Read)),
            ("POST", "/api/drain", Some(Scope::Operate)),
            ("POST", "/api/cluster/call", None),
            ("POST", "/api/cluster/jobs/7/stop", Some(Scope::Operate)),
            ("DELETE", "/api/sessions", Some(Scope::Operate)),
            ("GET", "/api/sessions/", Some(Scope::Operate)),
            ("GET", "/api/sessions/7/8", Some(Scope::Operate)),
            ("GET", "//metrics", Some(Scope::Operate)),
            ("GET", "/nowhere", Some(Scope::Operate)),
            ("GET", "/api/app/connector/x", Some(Scope::Read)),
            ("POST", "/api/app/connector/x", Some(Scope::Operate)),
        ] {
            assert_eq!(scope_of(method, path), scope, "{method} {path}");
        }
    }
}
