//! The body of a form, bounded in size and time.

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use crate::Csrf;

/// The field of a form that carries its token.
const TOKEN_FIELD: &str = "csrf";

/// Why a form couldn't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormError {
    /// It has more bytes than the limit.
    TooLong,
    /// It took too long, or broke off.
    Incomplete,
    /// It isn't a form of ours, or one of another session.
    Forged,
    /// It lacks a field, or has something else in it.
    Malformed,
}

/// A form that was sent, as it came.
#[derive(Debug)]
pub struct Fields(Bytes);

impl Fields {
    /// Reads a form of at most `limit` bytes that is there within `patience`.
    ///
    /// # Errors
    /// It is too long or incomplete.
    pub async fn read(body: Body, limit: usize, patience: Duration) -> Result<Self, FormError> {
        let body = Limited::new(body, limit).collect();
        match tokio::time::timeout(patience, body).await {
            Ok(Ok(body)) => Ok(Self(body.to_bytes())),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(FormError::TooLong),
            Ok(Err(_)) | Err(_) => Err(FormError::Incomplete),
        }
    }

    /// What a form of ours says that was sent to `path`.
    ///
    /// # Errors
    /// [`FormError::Forged`] or [`FormError::Malformed`]; it may hold secrets, so nothing of it is
    /// told.
    pub fn parse<T: DeserializeOwned>(&self, csrf: &Csrf, path: &str) -> Result<T, FormError> {
        let pairs: Vec<(Cow<'_, str>, Cow<'_, str>)> =
            serde_urlencoded::from_bytes(&self.0).map_err(|_| FormError::Malformed)?;
        let token = pairs.iter().find(|(name, _)| name == TOKEN_FIELD);
        if !token.is_some_and(|(_, token)| csrf.admits(path, token)) {
            return Err(FormError::Forged);
        }
        serde_urlencoded::from_bytes(&self.0).map_err(|_| FormError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Name {
        name: String,
    }

    #[tokio::test]
    async fn a_form_is_bounded_and_ours() {
        let csrf = Csrf::new("secret");
        let token = csrf.token("/x");
        let read = |text: String| Fields::read(Body::from(text), 300, Duration::from_secs(1));
        let parse = async |text: String| read(text).await.unwrap().parse::<Name>(&csrf, "/x");
        assert_eq!(parse(format!("csrf={token}&name=a%20b&x=1")).await.unwrap().name, "a b");
        assert_eq!(parse(format!("csrf={token}")).await.unwrap_err(), FormError::Malformed);
        assert_eq!(parse("name=a".to_owned()).await.unwrap_err(), FormError::Forged);
        let other = csrf.token("/y");
        assert_eq!(parse(format!("csrf={other}&name=a")).await.unwrap_err(), FormError::Forged);
        let long = format!("name={}", "a".repeat(300));
        assert_eq!(read(long).await.unwrap_err(), FormError::TooLong);
    }
}
