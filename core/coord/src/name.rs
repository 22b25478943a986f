use warren_proto::DeviceName;

use crate::Refused;

/// Refuses a name that means something else already: to programs, or as an id.
pub(crate) fn check_new_name(name: &DeviceName) -> Result<(), Refused> {
    if name.is_reserved() {
        return Err(Refused::Invalid(
            "programs give this name a meaning of its own (as 'localhost' or 'wpad'); choose \
             another one",
        ));
    }
    if name.reads_as_id() {
        return Err(Refused::Invalid(
            "16 hexadecimal digits are an id, not a name; choose another one",
        ));
    }
    Ok(())
}

/// Makes a name out of what a device calls itself that is neither reserved nor known to `is_taken`:
/// the name itself, else the first free one of `name-2`, `name-3`, …
pub(crate) fn unique_name(free_text: &str, is_taken: impl Fn(&DeviceName) -> bool) -> DeviceName {
    let is_unusable =
        |name: &DeviceName| name.is_reserved() || name.reads_as_id() || is_taken(name);
    let name = DeviceName::from_free_text(free_text);
    if !is_unusable(&name) {
        return name;
    }
    (2u32..)
        .map(|n| name.numbered(n))
        .find(|name| !is_unusable(name))
        .expect("an account has fewer than 2^32 devices")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_taken_name_gets_the_lowest_free_number() {
        let taken: BTreeSet<DeviceName> =
            ["kitchen-pi", "kitchen-pi-2", "kitchen-pi-4"].map(|s| s.parse().unwrap()).into();
        let name = unique_name("Kitchen Pi", |name| taken.contains(name));
        assert_eq!(name.as_str(), "kitchen-pi-3");
        assert_eq!(unique_name("Attic", |name| taken.contains(name)).as_str(), "attic");
    }

    #[test]
    fn nothing_is_newly_called_like_an_id() {
        assert_eq!(unique_name("00c0ffee00c0ffee", |_| false).as_str(), "00c0ffee00c0ffee-2");
        assert!(check_new_name(&"00c0ffee00c0ffee".parse().unwrap()).is_err());
        assert!(check_new_name(&"c0ffee".parse().unwrap()).is_ok());
    }

    #[test]
    fn a_reserved_name_gets_a_number_too() {
        assert_eq!(unique_name("WPAD", |_| false).as_str(), "wpad-2");
        let taken: DeviceName = "localhost-2".parse().unwrap();
        assert_eq!(unique_name("localhost", |name| *name == taken).as_str(), "localhost-3");
    }
}
