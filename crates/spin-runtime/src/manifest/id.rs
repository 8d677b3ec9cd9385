//! Names as Spin allows them: words of ASCII letters and digits, joined by one kind of separator.

/// Checks a kebab-case id (component ids): `my-component`, `HTTP-proxy`.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn kebab(id: &str) -> Result<(), String> {
    words(id, '-', '_')
}

/// Checks a snake_case id in either case.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn snake(id: &str) -> Result<(), String> {
    words(id, '_', '-')
}

/// Checks a snake_case id in lower case (variables): `grip_url`.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn lower_snake(id: &str) -> Result<(), String> {
    snake(id)?;
    match id.chars().any(|c| c.is_ascii_uppercase()) {
        true => Err("must be all lower case".to_owned()),
        false => Ok(()),
    }
}

/// Checks a label of a store or database: kebab-case or snake_case.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn label(id: &str) -> Result<(), String> {
    kebab(id)
        .or_else(|_| snake(id))
        .map_err(|_| "expected kebab-case or snake_case".to_owned())
}

fn words(id: &str, separator: char, mistaken: char) -> Result<(), String> {
    if id.is_empty() {
        return Err("must not be empty".to_owned());
    }
    if id.contains(mistaken) {
        return Err(format!(
            "words are joined with {separator:?}, not {mistaken:?}"
        ));
    }
    for word in id.split(separator) {
        let Some(first) = word.chars().next() else {
            return Err(format!("has an empty word beside a {separator:?}"));
        };
        if !first.is_ascii_alphabetic() {
            return Err(format!(
                "each word starts with an ASCII letter, not {first:?}"
            ));
        }
        if let Some(other) = word.chars().find(|c| !c.is_ascii_alphanumeric()) {
            return Err(format!(
                "words hold ASCII letters and digits only, not {other:?}"
            ));
        }
        let upper = word.chars().any(|c| c.is_ascii_uppercase());
        let lower = word.chars().any(|c| c.is_ascii_lowercase());
        if upper && lower {
            return Err(format!(
                "each word is all lower case or all UPPER CASE, unlike {word:?}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_spins() {
        for good in ["a", "orders", "my-component2", "HTTP-proxy", "a1-b2"] {
            assert_eq!(kebab(good), Ok(()), "{good}");
        }
        for bad in [
            "", "-a", "a-", "a--b", "1a", "a_b", "Aa", "a-1", "é", "a b", "a.b",
        ] {
            assert!(kebab(bad).is_err(), "{bad}");
        }
        assert!(lower_snake("grip_url").is_ok());
        assert!(lower_snake("grip-url").is_err());
        assert!(lower_snake("GRIP_URL").is_err());
        assert!(lower_snake("grip__url").is_err());
        assert!(label("my-store").is_ok() && label("my_store").is_ok());
        assert!(label("my-st_ore").is_err());
    }
}
