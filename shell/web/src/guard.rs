//! Whether a request was made by a page of this very site.

use http::header::{HOST, ORIGIN};
use http::request::Parts;

/// Whether a request that changes something comes from one of our own pages.
///
/// Browsers say so in `Sec-Fetch-Site`; those that don't (and all, where a page came without TLS)
/// in `Origin`. Something that says neither is no browser of ours. `site` is the origin that the
/// operator has named: behind a proxy the request's own host may be another.
pub fn is_same_origin(request: &Parts, site: &str) -> bool {
    let header = |name| request.headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(from) = header("sec-fetch-site") {
        return from == "same-origin";
    }
    let Some(origin) = header(ORIGIN.as_str()) else { return false };
    if origin == site {
        return true;
    }
    // HTTP/2 names the host in the request's own address.
    let host = request.uri.authority().map(|host| host.as_str()).or_else(|| header(HOST.as_str()));
    let told = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    told.is_some() && told == host
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&str, &str)]) -> bool {
        let mut request = http::Request::post("/x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        is_same_origin(&request.body(()).unwrap().into_parts().0, "https://mesh.example.com")
    }

    #[test]
    fn only_a_page_of_ours_may_change_something() {
        assert!(check(&[("sec-fetch-site", "same-origin")]));
        for from in ["cross-site", "same-site", "none"] {
            assert!(!check(&[("sec-fetch-site", from), ("origin", "https://mesh.example.com")]));
        }
        assert!(check(&[("origin", "https://mesh.example.com"), ("host", "10.0.0.1:8443")]));
        assert!(check(&[("origin", "http://10.0.0.1:8080"), ("host", "10.0.0.1:8080")]));
        assert!(!check(&[("origin", "https://evil.example"), ("host", "mesh.example.com")]));
        assert!(!check(&[("origin", "null"), ("host", "mesh.example.com")]));
        assert!(!check(&[("host", "mesh.example.com")]));
    }
}
