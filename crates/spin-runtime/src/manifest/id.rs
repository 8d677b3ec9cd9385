//! Spin's rules for names: words of ASCII letters and digits, joined by one kind of separator.

/// Checks a kebab-case id: `my-component`, `HTTP-proxy`.
pub(super) fn check_kebab(id: &str) -> Result<(), String> {
    check_words(id, '-', '_')
}

/// Checks a snake_case id in lower case: `grip_url`.
pub(super) fn check_lower_snake(id: &str) -> Result<(), String> {
    check_snake(id)?;
    if id.chars().any(|c| c.is_ascii_uppercase()) {
        return Err("it must be all lower case".to_owned());
    }
    Ok(())
}

/// Checks the label of a store or database: kebab-case or snake_case.
pub(super) fn check_label(id: &str) -> Result<(), String> {
    check_kebab(id)
        .or_else(|_| check_snake(id))
        .map_err(|_| "expected kebab-case or snake_case".to_owned())
}

/// Returns `derived` if it is a kebab-case id and free, and otherwise the first free id that consists
/// of `prefix` and a number.
pub(super) fn derive(derived: String, prefix: &str, is_free: impl Fn(&str) -> bool) -> String {
    if check_kebab(&derived).is_ok() && is_free(&derived) {
        return derived;
    }
    let mut number = 1;
    loop {
        let id = format!("{prefix}{number}");
        if is_free(&id) {
            return id;
        }
        number += 1;
    }
}

fn check_snake(id: &str) -> Result<(), String> {
    check_words(id, '_', '-')
}

fn check_words(id: &str, separator: char, wrong_separator: char) -> Result<(), String> {
    if id.is_empty() {
        return Err("it must not be empty".to_owned());
    }
    if id.contains(wrong_separator) {
        return Err(format!(
            "words must be joined with {separator:?}, not {wrong_separator:?}"
        ));
    }
    for word in id.split(separator) {
        let Some(first) = word.chars().next() else {
            return Err(format!("it has an empty word next to a {separator:?}"));
        };
        if !first.is_ascii_alphabetic() {
            return Err(format!(
                "each word must start with an ASCII letter, not {first:?}"
            ));
        }
        if let Some(other) = word.chars().find(|c| !c.is_ascii_alphanumeric()) {
            return Err(format!(
                "words must consist of ASCII letters and digits, but it contains {other:?}"
            ));
        }
        let has_upper = word.chars().any(|c| c.is_ascii_uppercase());
        let has_lower = word.chars().any(|c| c.is_ascii_lowercase());
        if has_upper && has_lower {
            return Err(format!(
                "each word must be all lower case or all upper case, unlike {word:?}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_ids_are_free_and_in_kebab_case() {
        let free = |id: &str| id != "a-b" && id != "a-d1";
        assert_eq!(derive("a-c".to_owned(), "a-d", free), "a-c");
        for taken_or_invalid in ["a-b", "a-for-/../b", "a-for-", "a_b"] {
            assert_eq!(derive(taken_or_invalid.to_owned(), "a-d", free), "a-d2");
        }
    }

    #[test]
    fn ids_follow_the_rules_of_spin() {
        for valid in ["a", "orders", "my-component2", "HTTP-proxy", "a1-b2"] {
            assert_eq!(check_kebab(valid), Ok(()), "{valid}");
        }
        for invalid in [
            "", "-a", "a-", "a--b", "1a", "a_b", "Aa", "a-1", "é", "a b", "a.b",
        ] {
            assert!(check_kebab(invalid).is_err(), "{invalid}");
        }
        assert!(check_lower_snake("grip_url").is_ok());
        assert!(check_lower_snake("grip-url").is_err());
        assert!(check_lower_snake("GRIP_URL").is_err());
        assert!(check_lower_snake("grip__url").is_err());
        assert!(check_label("my-store").is_ok() && check_label("my_store").is_ok());
        assert!(check_label("my-st_ore").is_err());
    }
}
