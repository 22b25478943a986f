//! The API described for programs: OpenAPI 3.1, made of the operations that there are.

use std::sync::LazyLock;

use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};
use warren_proto::Problem;

use super::operation::{Gives, Needs, Operation, PREFIX, SchemaOf};
use super::rest;

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());

/// `GET /api/v1/openapi.json`
pub(super) async fn serve() -> Response {
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-cache")];
    (StatusCode::OK, headers, DOCUMENT.clone()).into_response()
}

/// The document.
pub(crate) fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    for operation in rest::operations() {
        let path = paths.entry(format!("{PREFIX}{}", operation.path)).or_insert_with(|| json!({}));
        let method = operation.method.as_str().to_lowercase();
        path[method] = describe(&operation, &mut generator);
    }
    let problem = generator.subschema_for::<Problem>();
    json!({
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {
            "title": "Warren",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "The broker's API",
            "description": ABOUT,
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/", "description": "This broker" }],
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API token: Account settings, API tokens makes one",
                },
            },
            "responses": {
                "Problem": {
                    "description": "What went wrong, and what to do next (RFC 9457)",
                    "content": { "application/problem+json": { "schema": problem } },
                },
            },
        },
    })
}

const ABOUT: &str = "\
Everything that the portal's pages do. The local socket of the broker serves the same without a \
token.\n\n\
**Names.** Accounts, devices, relays and users are named by name (a user's: his e-mail address) or \
id. What isn't yours to see isn't there: 404.\n\n\
**Lists** come page by page: `?limit=`; the header `Link` has the next page (RFC 8288).\n\n\
**Tags.** A JSON answer has an `ETag`; `If-None-Match` spares what you have.\n\n\
**Repeating.** A POST that makes something takes an `Idempotency-Key`: repeated within a day with the same key \
it does nothing again and gives the same answer (header `Idempotent-Replayed`), until the broker is \
restarted.\n\n\
**Limits.** 200 requests at once and 20 a second for each token, 64 KiB for a body (a policy: 512). Newer \
versions may add fields to answers.";

fn describe(operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [operation.group()],
        "responses": answers(operation, generator),
    });
    let parameters = parameters(operation, generator);
    if !parameters.is_empty() {
        described["parameters"] = parameters.into();
    }
    if let Some(body) = operation.body {
        described["requestBody"] = json!({
            "required": true,
            "content": { "application/json": { "schema": body(generator) } },
        });
    } else if operation.id == "restoreBackup" {
        described["requestBody"] = json!({
            "required": true,
            "content": { "application/x-tar": {} },
        });
    }
    match operation.needs {
        Needs::Any => {}
        Needs::Right(right) => match right.scope() {
            Some(scope) => described["security"] = json!([{ "token": [scope.as_str()] }]),
            None => {
                described["description"] =
                    "Only at the broker's local socket: no token does.".into();
                described["security"] = json!([]);
            }
        },
        Needs::Device => described["security"] = json!([{ "token": ["devices:write"] }]),
    }
    described
}

fn parameters(operation: &Operation, generator: &mut SchemaGenerator) -> Vec<Value> {
    let mut parameters: Vec<Value> = operation
        .parameters()
        .map(|name| {
            json!({
                "name": name,
                "in": "path",
                "required": true,
                "description": about(name),
                "schema": { "type": "string" },
            })
        })
        .collect();
    for query in &operation.query {
        parameters.extend(query_parameters(*query, generator));
    }
    if operation.is_repeatable() {
        parameters.push(json!({
            "name": "Idempotency-Key",
            "in": "header",
            "description": "Repeated with the same key, the request does nothing again",
            "schema": { "type": "string", "minLength": 1, "maxLength": 255,
                        "pattern": "^[!-~]+$" },
        }));
    }
    if operation.is_conditional {
        parameters.push(json!({
            "name": "If-Match",
            "in": "header",
            "description": "The ETag of what is to be replaced: otherwise nothing is, 412",
            "schema": { "type": "string" },
        }));
    }
    parameters
}

fn about(parameter: &str) -> &'static str {
    match parameter {
        "account" => "An account's name or id",
        "device" => "A device's name or id",
        "code" => "The code that the device shows",
        "key" => "A join key's id",
        "relay" => "A relay's name or id",
        "user" => "A user's e-mail address or id",
        "invitation" => "An invitation's id",
        "token" => "An API token's id",
        _ => "An id",
    }
}

/// Each property of a query's schema as a parameter.
fn query_parameters(query: SchemaOf, generator: &mut SchemaGenerator) -> Vec<Value> {
    let schema = query(generator);
    let name = schema.get("$ref").and_then(Value::as_str).and_then(|it| it.rsplit('/').next());
    let defined = name.and_then(|name| generator.definitions().get(name));
    let properties = defined.and_then(|it| it.get("properties")).and_then(Value::as_object);
    let properties = properties.cloned().unwrap_or_default();
    let required = defined.and_then(|it| it.get("required")).and_then(Value::as_array);
    let required = required.cloned().unwrap_or_default();
    properties
        .into_iter()
        .map(|(name, mut schema)| {
            let about = schema.as_object_mut().and_then(|it| it.remove("description"));
            if let Some(kinds) = schema.get_mut("type").filter(|it| it.is_array()) {
                // In a query, absent is how there is none.
                *kinds = kinds.as_array().and_then(|it| it.first()).cloned().unwrap_or_default();
            }
            let required = required.iter().any(|it| it == name.as_str());
            json!({
                "name": name,
                "in": "query",
                "required": required,
                "description": about,
                "schema": schema,
            })
        })
        .collect()
}

fn answers(operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let content = match operation.gives {
        Gives::Nothing => None,
        Gives::Json(schema) => Some(json!({ "application/json": { "schema": schema(generator) } })),
        Gives::Media(media) => Some(json!({ media: {} })),
    };
    let mut success = json!({ "description": operation.summary });
    if let Some(content) = content {
        success["content"] = content;
    }
    let mut answers = json!({ operation.status.as_str(): success });
    let problem = json!({ "$ref": "#/components/responses/Problem" });
    let mut statuses = vec!["401", "403", "429", "503"];
    // What a path or a query names may not be there.
    if operation.parameters().next().is_some() || !operation.query.is_empty() {
        statuses.push("404");
    }
    if operation.body.is_some() {
        statuses.extend(["400", "408", "409", "413", "422"]);
    } else if !operation.query.is_empty() {
        statuses.push("400");
    } else if operation.method != http::Method::GET {
        statuses.extend(["400", "409"]);
    }
    if operation.is_conditional {
        statuses.push("412");
    }
    for status in statuses {
        answers[status] = problem.clone();
    }
    if operation.method == http::Method::GET {
        answers["304"] = json!({ "description": "It is as `If-None-Match` says" });
    }
    answers
}
