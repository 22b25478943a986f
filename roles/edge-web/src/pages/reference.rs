use askama::Template;
use axum::extract::State;
use warren_web::Layout;

use super::{Frame, Section, frame};
use crate::api::{PREFIX, operations};
use crate::surround::{Answer, Shared, Visitor, page};

#[derive(Template)]
#[template(path = "reference.html")]
struct Reference {
    layout: Layout,
    frame: Frame,
    base: String,
    operations: Vec<Line>,
}

struct Line {
    method: String,
    path: String,
    summary: &'static str,
}

pub(super) async fn show(State(site): Shared, visitor: Visitor) -> Answer {
    let (layout, frame) = frame(&site, &visitor, "API", Section::Api);
    let base = format!("http://{}{PREFIX}", site.place().dns_name());
    let operations = operations().into_iter().map(|it| Line {
        method: it.method.to_string(),
        path: format!("{PREFIX}{}", it.path),
        summary: it.summary,
    });
    page(&Reference { layout, frame, base, operations: operations.collect() })
}
