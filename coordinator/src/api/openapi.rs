//! The API's description, OpenAPI 3.1, made from the table of routes and the types that they speak.
//!
//! Owns the making. Main invariant: nothing is written down twice: paths, roles, queries, bodies and answers come from the
//! table that serves them, schemas from the types themselves, so that a description that is wrong is a program that is.

use axum::Json;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::caller::Role;
use super::guard::BODY_BYTES_MAX;
use super::problem::{Answer, PROBLEM_JSON};
use super::routes::{self, Answers, BASE, Route};
use super::types::Problem;
use lunar_common::ids::{CampaignId, DocumentHash, ServerId};

/// The description itself, as an answer.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(super) struct Description(Value);

impl JsonSchema for Description {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Description".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "type": "object" })
    }
}

pub(super) async fn shown() -> Answer<Description> {
    Ok(Json(Description(description())))
}

/// The whole description.
#[must_use]
pub fn description() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    // What is answered and what is asked differ in what may be left out.
    let mut answers = settings.clone().for_serialize().into_generator();
    let mut asked = settings.into_generator();
    let mut paths: Map<String, Value> = Map::new();
    for route in routes::all() {
        let method = if route.body.is_some() { "post" } else { "get" };
        let operation = operation(&route, &mut answers, &mut asked);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[method] = operation;
    }
    let problem = answers.subschema_for::<Problem>();
    let schemas = answers.take_definitions(true);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "lunar-coordinator",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE") },
            "description": "What a coordinator knows, and the one way to change anything: signed documents. TLS 1.3 with a \
                certificate on each side; the organisation in the caller's subject is its role.",
        },
        "servers": [{ "url": BASE }],
        "security": [{ "certificate": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "certificate": { "type": "mutualTLS" } },
            "responses": {
                "Problem": {
                    "description": "Why not, and what to do next.",
                    "content": { PROBLEM_JSON: { "schema": problem } },
                },
                "Busy": {
                    "description": "Others come first: claims, reports and documents. Ask again.",
                    "headers": { "Retry-After": { "description": "Seconds.", "schema": { "type": "integer" } } },
                    "content": { PROBLEM_JSON: { "schema": problem } },
                },
            },
        },
    })
}

fn operation(route: &Route, answers: &mut SchemaGenerator, asked: &mut SchemaGenerator) -> Value {
    let mut responses = Map::new();
    let problem = json!({ "$ref": "#/components/responses/Problem" });
    match route.answer {
        Answers::Json(describe) => {
            let content = json!({ "application/json": { "schema": describe(answers) } });
            let ok = json!({ "description": "As asked.", "content": content });
            if route.body.is_some() {
                responses.insert("201".to_owned(), ok.clone());
            } else {
                responses
                    .insert("304".to_owned(), json!({ "description": "If-None-Match names this answer." }));
            }
            responses.insert("200".to_owned(), ok);
        }
        Answers::Stream => {
            let content = json!({ "text/event-stream": { "schema": { "type": "string" } } });
            let description = "Each event's id is its record's number, its data a record as in `listEvents`. Begins behind \
                `Last-Event-ID`, if that is sent.";
            responses.insert("200".to_owned(), json!({ "description": description, "content": content }));
        }
    }
    responses.insert("503".to_owned(), json!({ "$ref": "#/components/responses/Busy" }));
    responses.insert("4XX".to_owned(), problem.clone());
    responses.insert("5XX".to_owned(), problem);
    let mut operation = json!({
        "operationId": route.id,
        "summary": route.summary,
        "x-role": route.role,
        "parameters": parameters(route, asked),
        "responses": responses,
    });
    if let Some(describe) = route.body {
        operation["requestBody"] = json!({
            "required": true,
            "description": format!("At most {BODY_BYTES_MAX} bytes."),
            "content": { "application/json": { "schema": describe(asked) } },
        });
    }
    if route.role == Role::Operator {
        operation["description"] = json!("For operators.");
    }
    operation
}

fn parameters(route: &Route, asked: &mut SchemaGenerator) -> Vec<Value> {
    let mut parameters = Vec::new();
    let named = route.path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    for name in named {
        let schema = match name {
            "campaign" => CampaignId::json_schema(asked),
            "server" => ServerId::json_schema(asked),
            "hash" => DocumentHash::json_schema(asked),
            other => unreachable!("the table names {other}, which nothing describes"),
        };
        parameters.push(json!({ "name": name, "in": "path", "required": true, "schema": schema }));
    }
    let query = route.query.map(|describe| describe(asked));
    let properties = query.as_ref().and_then(|query| query.get("properties")).and_then(Value::as_object);
    for (name, schema) in properties.into_iter().flatten() {
        parameters.push(json!({
            "name": name,
            "in": "query",
            "required": false,
            "description": schema.get("description"),
            "schema": present(schema),
        }));
    }
    parameters
}

/// The schema of a value that is there: a query says nothing by leaving a key out, never by a null.
fn present(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Some(Value::Array(kinds)) = schema.get_mut("type") {
        kinds.retain(|kind| kind != "null");
        if let [kind] = kinds.as_slice() {
            schema["type"] = kind.clone();
        }
    }
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
        choices.retain(|choice| choice["type"] != "null");
    }
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("description");
        schema.remove("default");
    }
    schema
}
