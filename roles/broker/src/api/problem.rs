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
}

pub(crate) type ApiResult<T> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(code: ErrorCode, title: impl Into<String>) -> Self {
        Self { status: status_of(code), code, title: title.into() }
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

    pub(crate) fn title(&self) -> &str {
        &self.title
    }

    /// The broker can't: its operator finds the cause in the log, the client tries again.
    pub(crate) fn unavailable(cause: &anyhow::Error) -> Self {
        error!(cause = format!("{cause:#}"), "a request could not be served");
        Self::new(
            ErrorCode::Unavailable,
            "the broker can't do this at the moment; nothing was changed, try again later \
             (its log says why)",
        )
    }
}

fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::JoinKeyUnknown
        | ErrorCode::JoinKeyUsed
        | ErrorCode::JoinKeyExpired
        | ErrorCode::ProofFailed
        | ErrorCode::WrongScope => StatusCode::FORBIDDEN,
        ErrorCode::Revoked => StatusCode::UNAUTHORIZED,
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
        let mut response = (self.status, Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        let again =
            matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        if again {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS));
        }
        response
    }
}
