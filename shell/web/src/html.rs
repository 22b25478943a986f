//! Pages as answers, and what every answer of ours has.

use std::io::Write as _;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, VARY,
};
use http::{HeaderMap, HeaderValue, StatusCode};

/// What is shorter isn't worth compressing.
const WORTH_COMPRESSING: usize = 1024;

/// Nothing is loaded from elsewhere, nothing inline runs, nobody frames us (CSP level 3).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";
const FEATURES: &str = "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), \
                        usb=(), browsing-topics=()";

/// A page: status and text.
#[derive(Debug)]
pub struct Html {
    /// The answer's status.
    pub status: StatusCode,
    /// The document.
    pub text: String,
}

/// The text of a page on its way to [`finish`], which knows whether to compress it.
#[derive(Clone)]
struct Rendered(String);

impl IntoResponse for Html {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        response.extensions_mut().insert(Rendered(self.text));
        response
    }
}

/// What every answer says about how a browser is to treat it.
#[derive(Debug, Clone, Copy)]
pub struct Shield {
    /// Whether browsers may be told to come by TLS alone. That holds for all ports of the host, so
    /// only who has the usual one may say it.
    pub strict_transport: bool,
}

impl Shield {
    fn cover(self, headers: &mut HeaderMap) {
        let all = [
            ("content-security-policy", POLICY),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            // Not `no-referrer`: forms would be sent with `Origin: null`.
            ("referrer-policy", "same-origin"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
            ("permissions-policy", FEATURES),
        ];
        for (name, value) in all {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        if self.strict_transport {
            headers.insert(
                HeaderName::from_static("strict-transport-security"),
                HeaderValue::from_static("max-age=31536000"),
            );
        }
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    }
}

/// Gives an answer its headers, and a page its body, compressed for who takes it so.
pub fn finish(request: &HeaderMap, mut response: Response, shield: Shield) -> Response {
    shield.cover(response.headers_mut());
    let Some(Rendered(text)) = response.extensions_mut().remove::<Rendered>() else {
        return response;
    };
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept-encoding"));
    *response.body_mut() = if text.len() > WORTH_COMPRESSING && takes_gzip(request) {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        Body::from(gzip(text.as_bytes(), Compression::fast()))
    } else {
        Body::from(text)
    };
    response
}

/// Whether a client takes gzip (RFC 9110 §12.5.3).
pub fn takes_gzip(request: &HeaderMap) -> bool {
    let all = request.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        name.trim().eq_ignore_ascii_case("gzip") && !matches!(weight.trim(), "q=0" | "q=0.0")
    })
}

pub(crate) fn gzip(plain: &[u8], level: Compression) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 3), level);
    encoder.write_all(plain).and_then(|()| encoder.finish()).expect("a vector takes everything")
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_page_is_compressed_for_who_takes_it_and_says_no_to_everything_else() {
        let page = || Html { status: StatusCode::OK, text: "<p>hello</p>".repeat(1000) };
        let shield = Shield { strict_transport: true };
        let mut request = HeaderMap::new();
        let plain = finish(&request, page().into_response(), shield);
        assert!(!plain.headers().contains_key(CONTENT_ENCODING));
        assert_eq!(plain.headers()["content-security-policy"], POLICY);
        assert_eq!(plain.headers()[CACHE_CONTROL], "no-store");
        assert!(plain.headers().contains_key("strict-transport-security"));
        request.insert(ACCEPT_ENCODING, HeaderValue::from_static("br, gzip;q=0.5"));
        let packed = finish(&request, page().into_response(), shield);
        let packed = packed.into_body().collect().await.unwrap().to_bytes();
        assert!(packed.len() < 1000);
        let mut unpacked = String::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut unpacked).unwrap();
        assert_eq!(unpacked, page().text);
    }

    #[test]
    fn gzip_may_be_refused() {
        let takes = |value: &'static str| {
            takes_gzip(&HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))]))
        };
        assert!(takes("gzip") && takes("deflate, GZIP ; q=1") && !takes("gzip;q=0"));
        assert!(!takes("identity") && !takes_gzip(&HeaderMap::new()));
    }
}
