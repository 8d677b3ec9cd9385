//! Leaves comments out of what is sent: they are for readers of `static/`, and
//! would be a quarter of what readers of the page wait for.
//!
//! Lines stay lines, so that an error in the browser tells the line in the file.

use crate::reference::Syntax;

/// `text` without its comments, all line breaks kept.
pub fn without(text: &str, syntax: Syntax) -> String {
    match syntax {
        Syntax::Script => script(text),
        Syntax::Style => style(text),
        Syntax::Page => text.to_owned(),
    }
}

/// Only comments that have their lines for themselves: what begins with `//`, and
/// what begins with `/*` and ends with `*/` at the end of a line. Those cannot be
/// mistaken but within a template literal, and what is in backticks is let be.
fn script(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut in_comment = false;
    let mut in_template = false;
    for line in text.split_inclusive('\n') {
        let code = line.trim_end();
        let trimmed = code.trim_start();
        let ending = &line[code.len()..];
        if in_comment {
            let end = trimmed.find("*/");
            in_comment = end.is_none();
            result.push_str(end.map_or("", |at| &trimmed[at + 2..]));
            result.push_str(ending);
        } else if !in_template && trimmed.starts_with("//") {
            result.push_str(ending);
        } else if !in_template && let Some(comment) = trimmed.strip_prefix("/*") {
            match comment.find("*/") {
                // Code follows on the same line.
                Some(at) if at + 2 < comment.len() => result.push_str(code),
                end => in_comment = end.is_none(),
            }
            result.push_str(ending);
        } else {
            in_template ^= line.matches('`').count() % 2 == 1;
            result.push_str(line);
        }
    }
    result
}

/// All comments outside strings.
fn style(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut quote = None;
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if quote.is_none() && rest.starts_with("/*") {
            let end = rest.find("*/").map_or(rest.len(), |at| at + 2);
            result.extend(rest[..end].chars().filter(|it| *it == '\n'));
            rest = &rest[end..];
            continue;
        }
        let mut length = next.len_utf8();
        match (quote, next) {
            (None, '"' | '\'') => quote = Some(next),
            (Some(open), _) if open == next => quote = None,
            // Whatever it is, it ends nothing.
            (Some(_), '\\') => length += rest[1..].chars().next().map_or(0, char::len_utf8),
            _ => {}
        }
        result.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    result
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn of_scripts() {
        let text = "// a\n/** b\n * c `\n */\nlet d = \"// e\"; // f\n  /* g */\n/* h */ let i; /* */\n/*\n*/let j = /\\/*k/;\n";
        let expected =
            "\n\n\n\nlet d = \"// e\"; // f\n\n/* h */ let i; /* */\n\nlet j = /\\/*k/;\n";
        assert_eq!(without(text, Syntax::Script), expected);
        let template = "let a = `\n// b\n/* c */`;\n// d";
        assert_eq!(
            without(template, Syntax::Script),
            "let a = `\n// b\n/* c */`;\n"
        );
    }

    #[test]
    fn of_styles() {
        let text = "/* a\nb */ c { content: \"/* d */\\\"/*\"; /* e */ f: url('/*') } /* open\n";
        let expected = "\n c { content: \"/* d */\\\"/*\";  f: url('/*') } \n";
        assert_eq!(without(text, Syntax::Style), expected);
    }

    proptest! {
        #[test]
        fn lines_stay_lines(text in "([/*`\"'\\\\aé \n]|/\\*|\\*/|//){0,60}") {
            let breaks = |text: &str| text.matches('\n').count();
            for syntax in [Syntax::Script, Syntax::Style] {
                let sent = without(&text, syntax);
                prop_assert_eq!(breaks(&sent), breaks(&text));
                if !text.contains("//") && !text.contains("/*") {
                    prop_assert_eq!(sent, text.clone());
                }
            }
        }
    }
}
