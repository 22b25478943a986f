//! The API's reference, made of its own description.

use std::sync::LazyLock;

use askama::Template;
use axum::extract::State;
use serde_json::Value;
use warren_web::Layout;

use super::Shared;
use super::answer::{Answer, page};
use super::viewer::Viewer;
use crate::admin::openapi;

/// Something that goes in or out.
struct Field {
    name: String,
    kind: String,
    about: String,
    required: bool,
}

struct Operation {
    id: String,
    method: String,
    path: String,
    summary: String,
    /// The scopes that it takes; none: any token, or (`is_local`) no token.
    scope: String,
    is_local: bool,
    parameters: Vec<Field>,
    takes: Option<String>,
    gives: String,
}

struct Group {
    name: String,
    operations: Vec<Operation>,
}

struct Type {
    name: String,
    about: String,
    fields: Vec<Field>,
    /// What it may be, if it is one of some words.
    words: Vec<String>,
}

/// What the page shows: the same until the program ends.
pub(super) struct Reference {
    about: Vec<String>,
    groups: Vec<Group>,
    types: Vec<Type>,
}

static REFERENCE: LazyLock<Reference> = LazyLock::new(|| read(&openapi::document()));

#[derive(Template)]
#[template(path = "reference.html")]
struct Page {
    layout: Layout,
    url: String,
    reference: &'static Reference,
}

/// `GET /api`
pub(super) async fn show(State(portal): Shared, viewer: Viewer) -> Answer {
    let (url, _) = portal.broker.reached_by();
    let layout = viewer.layout(&portal, "API", None);
    page(&Page { layout, url, reference: &REFERENCE })
}

fn read(document: &Value) -> Reference {
    let mut groups: Vec<Group> = Vec::new();
    for (path, operations) in members(&document["paths"]) {
        for (method, described) in members(operations) {
            let name = text(&described["tags"][0]);
            let operation = operation(path, method, described);
            match groups.iter_mut().find(|group| group.name == name) {
                Some(group) => group.operations.push(operation),
                None => groups.push(Group { name, operations: vec![operation] }),
            }
        }
    }
    let types =
        members(&document["components"]["schemas"]).map(|(name, schema)| read_type(name, schema));
    let about = text(&document["info"]["description"]);
    Reference {
        about: about.split("\n\n").map(|it| it.replace("**", "").replace('`', "")).collect(),
        groups,
        types: types.filter(|it| !it.fields.is_empty() || !it.words.is_empty()).collect(),
    }
}

fn operation(path: &str, method: &str, described: &Value) -> Operation {
    let scopes = described["security"][0]["token"].as_array();
    let parameters = described["parameters"].as_array().into_iter().flatten();
    let of_json = |content: &Value| kind(&content["application/json"]["schema"]);
    let success = members(&described["responses"]).find(|(status, _)| status.starts_with('2'));
    let gives = success.map(|(status, answer)| match members(&answer["content"]).next() {
        Some((media, _)) if media == "application/json" => of_json(&answer["content"]),
        Some((media, _)) => media.clone(),
        None => format!("nothing ({status})"),
    });
    let body = &described["requestBody"]["content"];
    Operation {
        id: text(&described["operationId"]),
        method: method.to_uppercase(),
        path: path.to_owned(),
        summary: text(&described["summary"]),
        scope: scopes.into_iter().flatten().map(text).collect::<Vec<_>>().join(" "),
        is_local: described["security"].as_array().is_some_and(Vec::is_empty),
        parameters: parameters.map(parameter).collect(),
        takes: members(body).next().map(|(media, _)| match media == "application/json" {
            true => of_json(body),
            false => media.clone(),
        }),
        gives: gives.unwrap_or_default(),
    }
}

fn parameter(described: &Value) -> Field {
    Field {
        name: text(&described["name"]),
        kind: text(&described["in"]),
        about: text(&described["description"]),
        required: described["required"].as_bool() == Some(true),
    }
}

fn read_type(name: &str, schema: &Value) -> Type {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let fields = members(&schema["properties"]).map(|(name, field)| Field {
        name: name.clone(),
        kind: kind(field),
        about: text(&field["description"]),
        required: required.contains(&name.as_str()),
    });
    let choices = schema["oneOf"].as_array().or(schema["enum"].as_array());
    let word = |choice: &Value| choice["const"].as_str().or(choice.as_str()).map(str::to_owned);
    Type {
        name: name.to_owned(),
        about: text(&schema["description"]),
        fields: fields.collect(),
        words: choices.into_iter().flatten().filter_map(word).collect(),
    }
}

/// A schema in a few words.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str() {
        return name.rsplit('/').next().unwrap_or(name).to_owned();
    }
    if let Some(all) = schema["anyOf"].as_array() {
        let all = all.iter().filter(|it| it["type"] != "null").map(kind);
        return all.collect::<Vec<_>>().join(" or ");
    }
    let types = &schema["type"];
    let first = types.as_array().map_or(Some(types), |all| all.first()).and_then(Value::as_str);
    match first {
        Some("array") => format!("list of {}", kind(&schema["items"])),
        Some("object") if schema["additionalProperties"].is_object() => {
            format!("map to {}", kind(&schema["additionalProperties"]))
        }
        Some(word) => word.to_owned(),
        None => "anything".to_owned(),
    }
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_has_every_operation_and_every_type_that_it_names() {
        let reference = read(&openapi::document());
        let operations: Vec<&Operation> =
            reference.groups.iter().flat_map(|group| &group.operations).collect();
        assert!(operations.len() > 40);
        let devices = operations.iter().find(|it| it.id == "listDevices").unwrap();
        assert_eq!(
            (devices.gives.as_str(), devices.scope.as_str()),
            ("list of Device", "account:read")
        );
        assert_eq!(devices.parameters.len(), 3);
        let change = operations.iter().find(|it| it.id == "changeDevice").unwrap();
        assert_eq!(change.takes.as_deref(), Some("DeviceChange"));
        assert!(operations.iter().any(|it| it.is_local));
        let device = reference.types.iter().find(|it| it.name == "Device").unwrap();
        assert!(device.fields.iter().all(|it| !it.about.is_empty()), "all are explained");
    }
}
