//! The API described for programs: OpenAPI 3.1, made of the operations that there are.

use std::sync::LazyLock;

use axum::body::Bytes;
use axum::response::{IntoResponse as _, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::api::{Operation, PREFIX, Problem, operations};

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());

/// `GET /api/v1/openapi.json`
pub(crate) async fn serve() -> Response {
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-cache")];
    (headers, DOCUMENT.clone()).into_response()
}

const ABOUT: &str = "\
What the edge's own pages do. Who asks is known by the mesh address that he comes from: there is no \
token. Whoever the policy lets reach TCP 80 of the edge is told that it is there; all else takes a device of the \
edge's user or of an admin of the account, without tags.\n\n\
With the broker away, what is open stays so, and changes of it are refused (503).";

/// The document.
pub(crate) fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    for operation in operations() {
        let path = paths.entry(format!("{PREFIX}{}", operation.path)).or_insert_with(|| json!({}));
        let body = operation.body.map(|schema| schema(&mut generator).to_value());
        let gives = operation.gives.map(|schema| schema(&mut generator).to_value());
        path[operation.method.as_str().to_lowercase()] = describe(&operation, body, gives);
    }
    let problem = generator.subschema_for::<Problem>();
    json!({
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {
            "title": "Warren",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "An edge's API",
            "description": ABOUT,
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/", "description": "This edge" }],
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "responses": {
                "Problem": {
                    "description": "What went wrong, and what to do next (RFC 9457)",
                    "content": { "application/problem+json": { "schema": problem } },
                },
            },
        },
    })
}

fn describe(operation: &Operation, body: Option<Value>, gives: Option<Value>) -> Value {
    let schema = gives.unwrap_or_else(|| json!({}));
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [operation.group()],
        "responses": {
            "2XX": { "description": "Done", "content": { "application/json": { "schema": schema } } },
            "default": { "$ref": "#/components/responses/Problem" },
        },
    });
    if operation.is_change() {
        described["description"] = "Takes a device whose user may change this edge.".into();
    }
    let parameters: Vec<Value> = operation
        .parameters()
        .map(|name| {
            json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } })
        })
        .collect();
    if !parameters.is_empty() {
        described["parameters"] = parameters.into();
    }
    if let Some(schema) = body {
        described["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": schema } } });
    }
    described
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_described_once() {
        let document = document();
        let paths = document["paths"].as_object().unwrap();
        let count: usize = paths.values().map(|path| path.as_object().unwrap().len()).sum();
        assert_eq!(count, operations().len());
        for operation in operations().iter().filter(|it| it.method != http::Method::DELETE) {
            assert!(operation.gives.is_some(), "{} says what it answers", operation.id);
        }
        let device = &document["components"]["schemas"]["Device"];
        for named in device["required"].as_array().unwrap().iter().filter_map(Value::as_str) {
            assert!(["ip", "first_seen_unix", "last_seen_unix"].contains(&named), "{named}");
        }
        for told in ["vendor", "randomised", "services", "ipv6", "link"] {
            assert!(device["properties"][told].is_object(), "{told}");
        }
        let mut ids: Vec<_> = operations().iter().map(|it| it.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count, "each has a name of its own");
        let text = document.to_string();
        for name in text.split("#/components/schemas/").skip(1) {
            let name = name.split('"').next().unwrap();
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
        }
    }
}
