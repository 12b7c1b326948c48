//! The schemas of the document, each generated from an example with all members, so a new member that is not documented does not compile.

use serde_json::{Map, Value, json};

use super::examples::{Type, all};

pub(super) fn schemas() -> Value {
    let command = |name: &str, schema: &str| {
        json!({
            "type": "object",
            "required": [name],
            "additionalProperties": false,
            "properties": {name: {"$ref": format!("#/components/schemas/{schema}")}},
        })
    };
    let mut schemas = json!({
        "Command": {"oneOf": [
            command("count", "CountCommand"),
            command("push", "PushCommand"),
            command("kick", "KickCommand"),
            command("set", "SetCommand"),
            command("bind", "BindCommand"),
            command("unbind", "CountCommand"),
            command("join", "TopicCommand"),
            command("leave", "TopicCommand"),
        ]},
    });
    for Type {
        name,
        required,
        nullable,
        value,
    } in all()
    {
        let mut schema = schema_of(&value);
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        for member in nullable {
            let kind = schema["properties"][member]["type"].take();
            schema["properties"][member]["type"] = json!([kind, "null"]);
        }
        schemas[name] = schema;
    }
    let reference = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
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
    // Members with arbitrary values and names.
    schemas["PushCommand"]["properties"]["body"] = json!({"description": "Any JSON but null."});
    schemas["SetCommand"]["properties"]["values"] = json!({"type": "object"});
    schemas["SessionInfo"]["properties"]["settings"] = json!({"type": "object"});
    schemas["Configuration"] = json!({"type": "array", "items": reference("EffectiveKey")});
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
    schemas
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
