//! Lists page by page: `?limit=N`, and the address of the next page in the header `Link` (RFC 8288).

use axum::Json;
use axum::extract::{FromRequestParts, Query as AxumQuery};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::LINK;
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::api::problem::{ApiResult, Failure};

/// Entries of a page, unless the request says otherwise.
const USUAL: u16 = 100;
const LARGEST: u16 = 1_000;

/// Which part of a list is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(super) struct PageQuery {
    /// Entries of a page; 100 unless given.
    #[schemars(range(min = 1, max = 1_000))]
    limit: Option<u16>,
    /// Where the page begins: as the page before says in its header `Link`.
    cursor: Option<String>,
}

impl PageQuery {
    /// One page of these, in the order of their keys, which are unique.
    ///
    /// # Errors
    /// The cursor is none that a page before gave, or the limit is out of range.
    pub(super) fn of<T: Serialize>(
        &self,
        items: impl IntoIterator<Item = T>,
        key: impl Fn(&T) -> String,
    ) -> ApiResult<Response> {
        let limit = self.limit.unwrap_or(USUAL);
        if !(1..=LARGEST).contains(&limit) {
            return Err(Failure::invalid("a page has 1 to 1000 entries"));
        }
        let after = self.cursor.as_deref().map(parse).transpose()?;
        let mut items: Vec<(String, T)> =
            items.into_iter().map(|item| (key(&item), item)).collect();
        items.retain(|(key, _)| after.as_ref().is_none_or(|after| key > after));
        items.sort_by(|a, b| a.0.cmp(&b.0));
        let is_last = items.len() <= usize::from(limit);
        items.truncate(limit.into());
        let next = items.last().filter(|_| !is_last).map(|(key, _)| {
            format!("<?limit={limit}&cursor={}>; rel=\"next\"", URL_SAFE_NO_PAD.encode(key))
        });
        let items: Vec<T> = items.into_iter().map(|(_, item)| item).collect();
        let mut response = (StatusCode::OK, Json(items)).into_response();
        if let Some(Ok(next)) = next.map(HeaderValue::try_from) {
            response.headers_mut().insert(LINK, next);
        }
        Ok(response)
    }
}

fn parse(cursor: &str) -> ApiResult<String> {
    let key = URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|key| String::from_utf8(key).ok());
    key.ok_or_else(|| Failure::invalid("this cursor isn't one that a page before gave"))
}

/// A request's query; what is wrong with it is said as a problem.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let query = AxumQuery::<T>::from_request_parts(parts, state).await;
        query.map(|AxumQuery(query)| Self(query)).map_err(|it| Failure::invalid(it.body_text()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn walk(limit: u16, count: u32) -> Vec<Vec<u32>> {
        let mut pages = Vec::new();
        let mut query = PageQuery { limit: Some(limit), cursor: None };
        loop {
            let page = query.of((0..count).rev(), |number| format!("{number:04}")).unwrap();
            let link = page.headers().get(LINK).map(|link| link.to_str().unwrap().to_owned());
            let body = http_body_util::BodyExt::collect(page.into_body()).await.unwrap();
            pages.push(serde_json::from_slice(&body.to_bytes()).unwrap());
            let Some(link) = link else { return pages };
            let (_, cursor) = link.split_once("cursor=").unwrap();
            query.cursor = Some(cursor.split_once('>').unwrap().0.to_owned());
        }
    }

    #[tokio::test]
    async fn pages_follow_one_another_without_gap_or_overlap() {
        assert_eq!(walk(2, 5).await, [vec![0, 1], vec![2, 3], vec![4]]);
        assert_eq!(walk(5, 5).await, [vec![0, 1, 2, 3, 4]]);
        assert_eq!(walk(1, 0).await, [Vec::<u32>::new()]);
    }

    #[test]
    fn a_page_of_nothing_and_a_foreign_cursor_are_refused() {
        for (limit, cursor) in [(Some(0), None), (Some(1_001), None), (None, Some("%%"))] {
            let query = PageQuery { limit, cursor: cursor.map(str::to_owned) };
            assert!(query.of([1], ToString::to_string).is_err());
        }
    }
}
