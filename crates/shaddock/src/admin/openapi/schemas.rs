//! The schemas of the document, each generated from an example with all members, so a new member that is not documented does not compile.

use serde_json::{Map, Value, json};

use super::examples::{Type, all};

pub(super) fn schemas() -> Value {
    let mut schemas = Map::new();
    schemas.insert("Command".into(), commands());
    for of in all() {
        let (name, schema) = object(&of);
        schemas.insert(name.into(), schema);
    }
    let mut schemas = Value::Object(schemas);
    refer(&mut schemas);
    open(&mut schemas);
    schemas["Configuration"] = json!({"type": "array", "items": reference("EffectiveKey")});
    schemas
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// A command is an object with one member, which is named for it.
fn commands() -> Value {
    let commands = [
        ("count", "CountCommand"),
        ("push", "PushCommand"),
        ("kick", "KickCommand"),
        ("set", "SetCommand"),
        ("bind", "BindCommand"),
        ("unbind", "CountCommand"),
        ("join", "TopicCommand"),
        ("leave", "TopicCommand"),
    ];
    let commands = commands.map(|(name, schema)| {
        json!({
            "type": "object",
            "required": [name],
            "additionalProperties": false,
            "properties": {name: reference(schema)},
        })
    });
    json!({"oneOf": commands})
}

fn object(of: &Type) -> (&'static str, Value) {
    let mut schema = schema_of(&of.value);
    if !of.required.is_empty() {
        schema["required"] = json!(of.required);
    }
    for member in of.nullable {
        let kind = schema["properties"][member]["type"].take();
        schema["properties"][member]["type"] = json!([kind, "null"]);
    }
    (of.name, schema)
}

/// Members that are of other types of the API.
fn refer(schemas: &mut Value) {
    for (name, member, to) in [
        ("CountCommand", "to", "To"),
        ("PushCommand", "to", "To"),
        ("KickCommand", "to", "To"),
        ("SetCommand", "to", "To"),
        ("BindCommand", "to", "To"),
        ("TopicCommand", "to", "To"),
        ("CommandResult", "ok", "CommandOutcome"),
        ("CommandResult", "error", "ErrorInfo"),
        ("ErrorBody", "error", "ErrorInfo"),
        ("ServerStatus", "unanswered", "Unanswered"),
        ("SessionInfo", "client", "ClientClaims"),
    ] {
        schemas[name]["properties"][member] = reference(to);
    }
    for (name, member, to) in [
        ("CallRequest", "commands", "Command"),
        ("CallAnswer", "results", "CommandResult"),
        ("CommandOutcome", "unanswered", "Unanswered"),
        ("KickOutcome", "unanswered", "Unanswered"),
        ("LoadReport", "unanswered", "Unanswered"),
        ("EventPage", "unanswered", "Unanswered"),
        ("AudiencePage", "unanswered", "Unanswered"),
        ("MemberPage", "unanswered", "Unanswered"),
        ("SessionOverview", "unanswered", "Unanswered"),
        ("SessionOverview", "sessions", "SessionInfo"),
        ("SessionPage", "sessions", "SessionInfo"),
        ("ServerOverview", "servers", "ServerStatus"),
        ("ServerList", "servers", "ServerReport"),
        ("Stats", "servers", "ServerStats"),
    ] {
        schemas[name]["properties"][member]["items"] = reference(to);
    }
}

/// Members with arbitrary values or names.
fn open(schemas: &mut Value) {
    schemas["PushCommand"]["properties"]["body"] = json!({"description": "Any JSON but null."});
    schemas["SetCommand"]["properties"]["values"] = json!({"type": "object"});
    schemas["SessionInfo"]["properties"]["settings"] = json!({"type": "object"});
    let texts = json!({"type": "object", "additionalProperties": {"type": "string"}});
    for name in ["ServerReport", "ServerStatus"] {
        schemas[name]["properties"]["metadata"] = texts.clone();
    }
    let counts = json!({"type": "object", "additionalProperties": {"type": "integer"}});
    for name in ["CommandOutcome", "KickOutcome"] {
        schemas[name]["properties"]["by_frontend"] = counts.clone();
    }
    for name in ["ServerStats", "ServerWork"] {
        for member in ["refused", "closed", "dropped"] {
            schemas[name]["properties"][member] = counts.clone();
        }
    }
    schemas["AudiencePage"]["properties"]["audiences"]["items"]["properties"]["by_frontend"] =
        counts;
}

/// The schema of values such as this one.
fn schema_of(example: &Value) -> Value {
    match example {
        Value::Null => json!({}),
        Value::Bool(_) => json!({"type": "boolean"}),
        Value::Number(_) => json!({"type": "integer"}),
        Value::String(_) => json!({"type": "string"}),
        Value::Array(items) => json!({
            "type": "array",
            "items": items.first().map_or_else(|| json!({}), schema_of),
        }),
        Value::Object(members) => {
            let properties: Map<String, Value> = members
                .iter()
                .map(|(name, value)| (name.clone(), schema_of(value)))
                .collect();
            json!({"type": "object", "properties": properties})
        }
    }
}
