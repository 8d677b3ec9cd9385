//! Removes comments from modules, so that they need no build step to be small.

/// Removes the lines of `module` that are comments. The other lines keep their numbers.
///
/// Comments after code stay. A module that this cannot tell apart from text or code is
/// returned as it is: one with a template literal of several lines, or with code after
/// the end of a comment.
pub(crate) fn remove(module: &str) -> String {
    let mut result = String::with_capacity(module.len());
    let mut is_in_comment = false;
    for line in module.split_inclusive('\n') {
        let text = line.trim();
        let has_open_template = text.matches('`').count() % 2 == 1;
        let begins = !is_in_comment && text.starts_with("/*");
        if is_in_comment || begins {
            // In `/*/`, the comment does not end.
            let rest = if begins { &text[2..] } else { text };
            match rest.split_once("*/") {
                None => is_in_comment = true,
                Some((_, "")) => is_in_comment = false,
                Some(_) => return module.to_owned(),
            }
        } else if has_open_template {
            return module.to_owned();
        } else if !text.starts_with("//") {
            result.push_str(line.trim_end_matches('\n'));
        }
        if line.ends_with('\n') {
            result.push('\n');
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_comments_become_empty() {
        let module = "// One.\nlet a; // two\n\n  /** Three. */\n  /**\n   * Four `.\n   * let b;\n   */\n  let c = \"//\";\n/*/\n*/\nlet d;";
        let expected = "\nlet a; // two\n\n\n\n\n\n\n  let c = \"//\";\n\n\nlet d;";
        assert_eq!(remove(module), expected);
    }

    #[test]
    fn modules_that_may_have_text_like_comments_stay() {
        for module in [
            "let a = `\n// text\n`;\n// comment\n",
            "// comment\n/* one */ let a;\n",
            "/*\n*/ let a;\n// comment\n",
        ] {
            assert_eq!(remove(module), module);
        }
    }

    #[test]
    fn other_modules_stay() {
        for module in ["", "\n", "let a;", "let a = `b` + /c/ + `d`;\r\nf();\n"] {
            assert_eq!(remove(module), module);
        }
    }
}
