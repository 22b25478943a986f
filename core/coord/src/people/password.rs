use super::Email;
use crate::Refused;

/// NIST SP 800-63B wants 8 at least; a password alone guards the whole network, so more.
const FEWEST: usize = 12;
/// What Argon2 is given at most.
const MOST_BYTES: usize = 1024;
const FEWEST_DIFFERENT: usize = 5;

/// Whether a password is one that may be set: length is what counts, and that it can't be told from
/// the address beside it.
///
/// # Errors
/// [`Refused::Invalid`] says what is missing.
pub fn check_password(password: &str, email: &Email) -> Result<(), Refused> {
    if password.chars().count() < FEWEST {
        return Err(Refused::Invalid("a password has at least 12 characters"));
    }
    if password.len() > MOST_BYTES {
        return Err(Refused::Invalid("a password has at most 1,024 bytes"));
    }
    let different: std::collections::BTreeSet<char> = password.chars().collect();
    if different.len() < FEWEST_DIFFERENT {
        return Err(Refused::Invalid("a password has at least 5 different characters"));
    }
    if email.as_str().contains(&password.to_lowercase()) {
        return Err(Refused::Invalid("a password is no part of the e-mail address"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_passwords_are_good_and_short_or_obvious_ones_are_not() {
        let email: Email = "bob.longname@example.org".parse().unwrap();
        for good in ["correct horse battery", "ünïcödé-passwörd", "aaaaaaa-bbb-ccc-123"] {
            assert_eq!(check_password(good, &email), Ok(()));
        }
        let huge = "abcdefgh".repeat(200);
        for bad in ["", "short", "aaaaaaaaaaaaaaaa", "Bob.Longname@example", &huge] {
            assert!(check_password(bad, &email).is_err(), "{bad:?}");
        }
    }
}
