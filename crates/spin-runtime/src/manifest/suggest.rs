//! "Did you mean" suggestions for misspelled names.

/// Returns ` (did you mean …?)` if a candidate is similar to `name`, otherwise an empty string.
pub fn suggest<'c>(name: &str, candidates: impl Iterator<Item = &'c str>) -> String {
    // Names are short. The limit bounds the quadratic work on other input.
    const MAX_NAME_BYTES: usize = 64;
    if name.len() > MAX_NAME_BYTES {
        return String::new();
    }
    let max_distance = (name.chars().count() / 3).clamp(1, 3);
    candidates
        .map(|candidate| (edit_distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= max_distance)
        .min()
        .map(|(_, candidate)| format!(" (did you mean `{candidate}`?)"))
        .unwrap_or_default()
}

/// Returns the Levenshtein distance, ignoring case and the difference between `-` and `_`.
fn edit_distance(left: &str, right: &str) -> usize {
    let fold = |c: char| {
        if c == '-' {
            '_'
        } else {
            c.to_ascii_lowercase()
        }
    };
    let right: Vec<char> = right.chars().map(fold).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().map(fold).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, r) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_edits() {
        assert_eq!(edit_distance("source", "source"), 0);
        assert_eq!(edit_distance("sources", "source"), 1);
        assert_eq!(edit_distance("sorce", "source"), 1);
        assert_eq!(edit_distance("max_message_size", "max-message-size"), 0);
        assert_eq!(edit_distance("", "abc"), 3);
    }

    #[test]
    fn only_similar_names_are_suggested() {
        let candidates = ["source", "files", "description"];
        assert_eq!(
            suggest("sources", candidates.into_iter()),
            " (did you mean `source`?)"
        );
        assert_eq!(suggest("wasm", candidates.into_iter()), "");
    }
}
