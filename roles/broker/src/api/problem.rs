//! Errors as clients see them: problem details (RFC 9457).

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use tracing::error;
use warren_coord::Refused;
use warren_proto::{ErrorCode, Problem};

/// Seconds after which it is worth trying again.
const RETRY_SECONDS: &str = "5";

/// A request that was not granted.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    code: ErrorCode,
    title: String,
    /// What the operator is told in place of the title.
    cause: Option<String>,
}

/// What an answer says to the operator, who may know what a node need not: an extension of the
/// response.
#[derive(Debug, Clone)]
struct ForOperator(Problem);

pub(crate) type ApiResult<T> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(code: ErrorCode, title: impl Into<String>) -> Self {
        Self { status: status_of(code), code, title: title.into(), cause: None }
    }

    pub(crate) fn invalid(title: impl Into<String>) -> Self {
        Self::new(ErrorCode::Invalid, title)
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(ErrorCode::NotFound, format!("there is no such {what}"))
    }

    pub(crate) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    pub(crate) fn code(&self) -> ErrorCode {
        self.code
    }

    /// The answer's status.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// What anybody is told.
    pub(crate) fn text(&self) -> &str {
        &self.title
    }

    /// The broker can't: its operator is told the cause, others to try again.
    pub(crate) fn unavailable(cause: &anyhow::Error) -> Self {
        let cause = explain(cause);
        error!(cause, "a request could not be served");
        let failure = Self::new(
            ErrorCode::Unavailable,
            "the broker can't do this at the moment: try again later (its log says why)",
        );
        Self { cause: Some(format!("the broker can't do this: {cause}")), ..failure }
    }

    /// The same, where it is known that nothing was changed.
    pub(crate) fn unchanged(cause: &anyhow::Error) -> Self {
        let cause = explain(cause);
        error!(cause, "a change could not be kept");
        let failure = Self::new(
            ErrorCode::Unavailable,
            "the broker can't do this at the moment; nothing was changed, try again later \
             (its log says why)",
        );
        Self { cause: Some(format!("nothing was changed: {cause}")), ..failure }
    }

    /// What the operator is told.
    pub(crate) fn operator_text(&self) -> &str {
        self.cause.as_deref().unwrap_or(&self.title)
    }
}

/// The chain of causes, and what to do where the system's own words don't say it.
fn explain(cause: &anyhow::Error) -> String {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let full = cause.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    let is_full = full.into_iter().any(|it| matches!(it.kind(), StorageFull | QuotaExceeded));
    match is_full {
        true => format!("disk full: free space on it, then repeat ({cause:#})"),
        false => format!("{cause:#}"),
    }
}

/// Puts what the operator may know into an answer; a layer of the admin API.
pub(crate) async fn tell_operator(mut response: Response) -> Response {
    match response.extensions_mut().remove::<ForOperator>() {
        Some(ForOperator(problem)) => problem_response(&problem),
        None => response,
    }
}

fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::JoinKeyUnknown
        | ErrorCode::JoinKeyUsed
        | ErrorCode::JoinKeyExpired
        | ErrorCode::ProofFailed
        | ErrorCode::WrongScope
        | ErrorCode::SignInFailed
        | ErrorCode::Forbidden
        | ErrorCode::Suspended
        | ErrorCode::LinkInvalid => StatusCode::FORBIDDEN,
        ErrorCode::Revoked | ErrorCode::SignInRequired => StatusCode::UNAUTHORIZED,
        ErrorCode::UpgradeRequired => StatusCode::UPGRADE_REQUIRED,
        ErrorCode::AccountFull | ErrorCode::Conflict => StatusCode::CONFLICT,
        ErrorCode::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Invalid => StatusCode::BAD_REQUEST,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Other => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self::new(refused.code(), refused.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let problem = Problem { status: self.status.as_u16(), title: self.title, code: self.code };
        let mut response = problem_response(&problem);
        if let Some(title) = self.cause {
            response.extensions_mut().insert(ForOperator(Problem { title, ..problem }));
        }
        response
    }
}

fn problem_response(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(problem)).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS));
    }
    response
}
