//! The body of a form, bounded in size and time.

use std::time::Duration;

use axum::body::Body;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

/// Why a form couldn't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormError {
    /// It has more bytes than the limit.
    TooLong,
    /// It took too long, or broke off.
    Incomplete,
    /// It lacks a field, or has something else in it.
    Malformed,
}

/// Reads a form of at most `limit` bytes that is there within `patience`.
///
/// # Errors
/// What is wrong with it; it may hold secrets, so nothing of it is told.
pub async fn read_form<T: DeserializeOwned>(
    body: Body,
    limit: usize,
    patience: Duration,
) -> Result<T, FormError> {
    let body = Limited::new(body, limit).collect();
    let bytes = match tokio::time::timeout(patience, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(FormError::TooLong),
        Ok(Err(_)) | Err(_) => return Err(FormError::Incomplete),
    };
    serde_urlencoded::from_bytes(&bytes).map_err(|_| FormError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Name {
        name: String,
    }

    #[tokio::test]
    async fn a_form_is_bounded() {
        let patience = Duration::from_millis(50);
        let read = |body| read_form::<Name>(body, 100, patience);
        assert_eq!(read(Body::from("name=a%20b&x=1")).await.unwrap().name, "a b");
        assert_eq!(read(Body::from("x=1")).await.unwrap_err(), FormError::Malformed);
        let long = format!("name={}", "a".repeat(100));
        assert_eq!(read(Body::from(long)).await.unwrap_err(), FormError::TooLong);
    }
}
