//! One row for each operation of the API: its route, what it takes to be allowed it, what goes in
//! and out. The router and the OpenAPI document are made from the same rows, so neither can forget
//! one.

use std::convert::Infallible;

use axum::handler::Handler;
use axum::routing::{MethodFilter, MethodRouter, on};
use http::{Method, StatusCode};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use std::sync::Arc;
use warren_coord::Right;

use super::paged::PageQuery;
use crate::broker::Broker;

/// Where the API begins.
pub(crate) const PREFIX: &str = "/api/v1";

/// What it takes to be allowed an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// Anything that is good for something: the handler shows what its holder may see.
    Any,
    /// This right, in the account that the path names, or over the broker.
    Right(Right),
    /// To manage the device that the path names: one's own, or all.
    Device,
}

/// What comes back if all goes well.
#[derive(Debug, Clone, Copy)]
pub(super) enum Gives {
    Nothing,
    Json(SchemaOf),
    /// Something else, of this media type.
    Media(&'static str),
}

/// Makes a type's schema.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// One operation.
pub(super) struct Operation {
    pub(super) method: Method,
    /// Below [`PREFIX`].
    pub(super) path: &'static str,
    /// Names it for programs.
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) needs: Needs,
    pub(super) query: Vec<SchemaOf>,
    pub(super) body: Option<SchemaOf>,
    pub(super) status: StatusCode,
    pub(super) gives: Gives,
    /// Whether it takes `If-Match`, against two who change one thing.
    pub(super) is_conditional: bool,
    pub(super) route: MethodRouter<Arc<Broker>, Infallible>,
}

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

impl Operation {
    fn new<H, T>(
        method: (Method, MethodFilter),
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self
    where
        H: Handler<T, Arc<Broker>>,
        T: 'static,
    {
        Self {
            method: method.0,
            path,
            id,
            summary,
            needs: Needs::Any,
            query: Vec::new(),
            body: None,
            status: StatusCode::OK,
            gives: Gives::Nothing,
            is_conditional: false,
            route: on(method.1, handler),
        }
    }

    /// Looks at something.
    pub(super) fn get<H: Handler<T, Arc<Broker>>, T: 'static>(
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self {
        Self::new((Method::GET, MethodFilter::GET), path, id, summary, handler)
    }

    /// Makes or does something.
    pub(super) fn post<H: Handler<T, Arc<Broker>>, T: 'static>(
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self {
        Self::new((Method::POST, MethodFilter::POST), path, id, summary, handler)
    }

    /// Sets something as a whole.
    pub(super) fn put<H: Handler<T, Arc<Broker>>, T: 'static>(
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self {
        Self::new((Method::PUT, MethodFilter::PUT), path, id, summary, handler)
    }

    /// Changes a part of something.
    pub(super) fn patch<H: Handler<T, Arc<Broker>>, T: 'static>(
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self {
        Self::new((Method::PATCH, MethodFilter::PATCH), path, id, summary, handler)
    }

    /// Removes something.
    pub(super) fn delete<H: Handler<T, Arc<Broker>>, T: 'static>(
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self {
        Self::new((Method::DELETE, MethodFilter::DELETE), path, id, summary, handler)
            .status(StatusCode::NO_CONTENT)
    }

    /// The right that it takes.
    pub(super) fn needs(self, right: Right) -> Self {
        Self { needs: Needs::Right(right), ..self }
    }

    /// It takes the right to manage the device of the path.
    pub(super) fn needs_device(self) -> Self {
        Self { needs: Needs::Device, ..self }
    }

    /// What its body says.
    pub(super) fn takes<T: JsonSchema>(self) -> Self {
        Self { body: Some(schema_of::<T>), ..self }
    }

    /// What its query says.
    pub(super) fn asks<T: JsonSchema>(mut self) -> Self {
        self.query.push(schema_of::<T>);
        self
    }

    /// What comes back.
    pub(super) fn gives<T: JsonSchema>(self) -> Self {
        let status = match self.status {
            StatusCode::NO_CONTENT => StatusCode::OK,
            other => other,
        };
        Self { gives: Gives::Json(schema_of::<T>), status, ..self }
    }

    /// Something was made, and this comes back.
    pub(super) fn creates<T: JsonSchema>(self) -> Self {
        self.gives::<T>().status(StatusCode::CREATED)
    }

    /// A list comes back, page by page.
    pub(super) fn lists<T: JsonSchema>(self) -> Self {
        self.gives::<Vec<T>>().asks::<PageQuery>()
    }

    /// Something of this media type comes back.
    pub(super) fn gives_media(self, media: &'static str) -> Self {
        Self { gives: Gives::Media(media), ..self }
    }

    /// It takes `If-Match` with the ETag of what it replaces.
    pub(super) fn conditional(self) -> Self {
        Self { is_conditional: true, ..self }
    }

    fn status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// Whether it makes something, which a repeated request must not make again: it takes an
    /// `Idempotency-Key`.
    pub(super) fn is_repeatable(&self) -> bool {
        self.method == Method::POST && self.status == StatusCode::CREATED
    }

    /// The names between braces in its path.
    pub(super) fn parameters(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }

    /// What it is about: the first word of the path that tells.
    pub(super) fn group(&self) -> &'static str {
        let mut words = self.path.split('/').filter(|it| !it.is_empty() && !it.starts_with('{'));
        let first = words.next().unwrap_or_default();
        if first == "accounts" { words.next().unwrap_or(first) } else { first }
    }
}
