//! Header values with parameters, such as `a; b=c, d; e="f"`.

/// Splits text at separators that are not within quotes.
pub(crate) fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut escaped = false;
    text.split(move |character| {
        let is_escaped = std::mem::take(&mut escaped);
        match character {
            '\\' if quoted && !is_escaped => escaped = true,
            '"' if !is_escaped => quoted = !quoted,
            _ => return character == separator && !quoted,
        }
        false
    })
}

/// Splits links at commas that are not within quotes or angle brackets.
pub(crate) fn split_links(text: &str) -> impl Iterator<Item = &str> {
    let mut in_uri = false;
    let mut quoted = false;
    let mut escaped = false;
    text.split(move |character| {
        let is_escaped = std::mem::take(&mut escaped);
        match character {
            '\\' if quoted && !is_escaped => escaped = true,
            '"' if !is_escaped && !in_uri => quoted = !quoted,
            '<' | '>' if !quoted => in_uri = character == '<',
            _ => return character == ',' && !quoted && !in_uri,
        }
        false
    })
}

/// Whether every quoted string is terminated.
pub(crate) fn is_closed(text: &str) -> bool {
    let mut quoted = false;
    let mut escaped = false;
    for character in text.chars() {
        let is_escaped = std::mem::take(&mut escaped);
        match character {
            '\\' if quoted && !is_escaped => escaped = true,
            '"' if !is_escaped => quoted = !quoted,
            _ => {}
        }
    }
    !quoted
}

/// Returns the value of a token or of a quoted string.
pub(crate) fn unquote(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"') else {
        return value.into();
    };
    let mut out = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => break,
            '\\' => out.extend(characters.next()),
            _ => out.push(character),
        }
    }
    out
}

/// Appends a quoted string.
pub(crate) fn write_quoted(value: &str, out: &mut String) {
    out.push('"');
    for character in value.chars() {
        if matches!(character, '"' | '\\') {
            out.push('\\');
        }
        out.push(character);
    }
    out.push('"');
}
