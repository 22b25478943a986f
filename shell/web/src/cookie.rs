//! Cookies that no script reads and no other host sets.

use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue};

/// The cookies of a site. Over TLS their names begin with `__Host-`: browsers keep such a cookie
/// only if this very host has set it, over TLS, for all of its paths (RFC 6265bis §4.1.3.2).
#[derive(Debug, Clone, Copy)]
pub struct Jar {
    /// Whether browsers reach the site over TLS.
    pub tls: bool,
}

/// How long a browser keeps a cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Until it is closed.
    Browser,
    /// That many seconds; zero forgets it at once.
    Seconds(u64),
}

impl Jar {
    /// A cookie's value.
    pub fn read<'a>(&self, headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
        let name = self.full(name);
        headers
            .get_all(COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    /// Sets a cookie. `value` is of characters that need no quotes (RFC 6265 §4.1.1), or nothing is
    /// set.
    pub fn set(&self, headers: &mut HeaderMap, name: &str, value: &str, life: Life) {
        let mut text = format!("{}={value}; Path=/; HttpOnly; SameSite=Lax", self.full(name));
        if self.tls {
            text.push_str("; Secure");
        }
        if let Life::Seconds(seconds) = life {
            text.push_str(&format!("; Max-Age={seconds}"));
        }
        if is_plain(value)
            && let Ok(value) = HeaderValue::try_from(text)
        {
            headers.append(SET_COOKIE, value);
        }
    }

    /// Has the browser forget a cookie.
    pub fn forget(&self, headers: &mut HeaderMap, name: &str) {
        self.set(headers, name, "", Life::Seconds(0));
    }

    fn full(&self, name: &str) -> String {
        let prefix = if self.tls { "__Host-" } else { "" };
        format!("{prefix}warren-{name}")
    }
}

fn is_plain(value: &str) -> bool {
    value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_bound_to_its_host_over_tls() {
        let jar = Jar { tls: true };
        let mut headers = HeaderMap::new();
        jar.set(&mut headers, "session", "abc-1", Life::Seconds(60));
        assert_eq!(
            headers[SET_COOKIE],
            "__Host-warren-session=abc-1; Path=/; HttpOnly; SameSite=Lax; Secure; Max-Age=60"
        );
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let jar = Jar { tls: true };
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, "warren-session=planted; x=1".parse().unwrap());
        headers.append(COOKIE, "a=b; __Host-warren-session=mine".parse().unwrap());
        assert_eq!(jar.read(&headers, "session"), Some("mine"));
        assert_eq!(Jar { tls: false }.read(&headers, "session"), Some("planted"));
        assert_eq!(jar.read(&headers, "other"), None);
    }

    #[test]
    fn a_value_cannot_add_attributes() {
        let mut headers = HeaderMap::new();
        let jar = Jar { tls: false };
        jar.set(&mut headers, "x", "a; Domain=evil.example", Life::Browser);
        jar.set(&mut headers, "x", "a\r\nb", Life::Browser);
        assert!(headers.is_empty());
    }
}
