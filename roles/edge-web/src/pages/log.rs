use askama::Template;
use axum::extract::State;
use warren_web::{Layout, When};

use super::{Frame, Section, frame, when};
use crate::surround::{Answer, Shared, Visitor, page};

#[derive(Template)]
#[template(path = "log.html")]
struct LogPage {
    layout: Layout,
    frame: Frame,
    lines: Vec<Line>,
}

struct Line {
    text: String,
    from: Option<String>,
    is_problem: bool,
    at: When,
}

pub(super) async fn show(State(site): Shared, visitor: Visitor) -> Answer {
    let (layout, frame) = frame(&site, &visitor, "Log", Section::Log);
    let lines = site.journal.entries().into_iter().map(|entry| Line {
        text: entry.text,
        from: entry.from,
        is_problem: entry.is_problem,
        at: when(entry.at_unix),
    });
    page(&LogPage { layout, frame, lines: lines.collect() })
}
