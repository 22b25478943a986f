//! Embedded files under URLs that name their contents, so that a browser may keep them for good.

use std::sync::LazyLock;

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use http::{HeaderValue, Response, StatusCode};

use crate::html::gzip;

/// Where the assets are served, with a slash at the end.
pub const PREFIX: &str = "/assets/";

struct Asset {
    /// `app-Wm9ybw.css`.
    name: String,
    content_type: &'static str,
    plain: &'static [u8],
    gzipped: Bytes,
}

impl Asset {
    fn new(stem: &str, ending: &str, content_type: &'static str, plain: &'static [u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, plain);
        let hash = URL_SAFE_NO_PAD.encode(&digest.as_ref()[..9]);
        let gzipped = Bytes::from(gzip(plain, flate2::Compression::best()));
        Self { name: format!("{stem}-{hash}.{ending}"), content_type, plain, gzipped }
    }
}

macro_rules! asset {
    ($stem:literal, $ending:literal, $content_type:literal, $path:literal) => {
        LazyLock::new(|| {
            Asset::new($stem, $ending, $content_type, include_bytes!(concat!("../assets/", $path)))
        })
    };
}

static STYLE: LazyLock<Asset> = asset!("app", "css", "text/css; charset=utf-8", "app.css");
static SCRIPT: LazyLock<Asset> = asset!("app", "js", "text/javascript; charset=utf-8", "app.js");
static HTMX: LazyLock<Asset> =
    asset!("htmx", "js", "text/javascript; charset=utf-8", "htmx/htmx.min.js");
static ICON: LazyLock<Asset> = asset!("icon", "svg", "image/svg+xml", "icon.svg");

/// The stylesheet's URL.
pub fn style() -> String {
    url(&STYLE)
}

/// The URL of our own script.
pub fn script() -> String {
    url(&SCRIPT)
}

/// htmx's URL.
pub fn htmx() -> String {
    url(&HTMX)
}

/// The icon's URL.
pub fn icon() -> String {
    url(&ICON)
}

fn url(asset: &Asset) -> String {
    format!("{PREFIX}{}", asset.name)
}

/// Answers a request for the asset of that name, compressed for who takes it so.
pub fn serve(name: &str, takes_gzip: bool) -> Response<Body> {
    let all = [&*STYLE, &*SCRIPT, &*HTMX, &*ICON];
    let Some(asset) = all.into_iter().find(|asset| asset.name == name) else {
        let mut missing = Response::new(Body::from("There is no such file.\n"));
        *missing.status_mut() = StatusCode::NOT_FOUND;
        return missing;
    };
    let body = match takes_gzip {
        true => asset.gzipped.clone(),
        false => Bytes::from_static(asset.plain),
    };
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    if takes_gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_assets_together_are_small() {
        let all = [&*STYLE, &*SCRIPT, &*HTMX, &*ICON];
        let sum: usize = all.iter().map(|asset| asset.gzipped.len()).sum();
        assert!(sum < 60_000, "{sum} bytes over the wire");
    }

    #[test]
    fn an_asset_is_found_under_its_hash_alone() {
        let name = style().strip_prefix(PREFIX).unwrap().to_owned();
        let response = serve(&name, true);
        assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
        assert!(response.headers()[CACHE_CONTROL].to_str().unwrap().contains("immutable"));
        assert!(!serve(&name, false).headers().contains_key(CONTENT_ENCODING));
        assert_eq!(serve("app.css", true).status(), StatusCode::NOT_FOUND);
    }
}
