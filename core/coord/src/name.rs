use warren_proto::DeviceName;

/// Makes a name out of what a device calls itself that `is_taken` doesn't know: the name itself,
/// else the first free one of `name-2`, `name-3`, …
pub(crate) fn unique_name(free_text: &str, is_taken: impl Fn(&DeviceName) -> bool) -> DeviceName {
    let name = DeviceName::from_free_text(free_text);
    if !is_taken(&name) {
        return name;
    }
    (2u32..)
        .map(|n| name.numbered(n))
        .find(|name| !is_taken(name))
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
}
