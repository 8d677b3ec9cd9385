//! Leaves comments, indentation and the spaces of scripts out of what is sent: they
//! are for readers of `static/`, and would be a third of what readers of the page
//! wait for.
//!
//! Lines stay lines, so that an error in the browser tells the line in the file.

use std::borrow::Cow;

use crate::reference::Syntax;

const INDENT: [char; 2] = [' ', '\t'];

/// What ends a name, a number or a word in a script. Of two of these with a space
/// in between no other operator would become, as of `+ +` and of `- -`.
const PUNCTUATION: &str = "=,;:?<>|&!(){}[]*\"'";

/// `text` without its comments, indentation and needless spaces, all line breaks kept.
pub fn lean(text: &str, syntax: Syntax) -> String {
    match syntax {
        Syntax::Script => script(text),
        Syntax::Style => style(text),
        Syntax::Page => text.to_owned(),
    }
}

/// Only comments that have their lines for themselves: what begins with `//`, and
/// what begins with `/*` and ends with `*/` at the end of a line. Those cannot be
/// mistaken but within a literal that goes on over lines, by backticks or by a
/// backslash, and these are let be.
fn script(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut in_comment = false;
    let mut in_template = false;
    let mut is_continued = false;
    for line in text.split_inclusive('\n') {
        let code = line.trim_end();
        let trimmed = code.trim_start();
        let ending = &line[code.len()..];
        if in_comment {
            let end = trimmed.find("*/");
            in_comment = end.is_none();
            result.push_str(end.map_or("", |at| &trimmed[at + 2..]));
            result.push_str(ending);
        } else if in_template || is_continued {
            in_template ^= line.matches('`').count() % 2 == 1;
            is_continued = code.ends_with('\\');
            result.push_str(line);
        } else if trimmed.starts_with("//") {
            result.push_str(ending);
        } else if let Some(comment) = trimmed.strip_prefix("/*") {
            match comment.find("*/") {
                // Code follows on the same line.
                Some(at) if at + 2 < comment.len() => result.push_str(trimmed),
                end => in_comment = end.is_none(),
            }
            result.push_str(ending);
        } else {
            in_template = line.matches('`').count() % 2 == 1;
            is_continued = code.ends_with('\\');
            result.push_str(&squeezed(line.trim_start_matches(INDENT)));
        }
    }
    result
}

/// `line` without the spaces beside punctuation, but for those in strings. A line
/// that may hold a regular expression, a template, a comment or an escaped quote
/// stays as it is.
fn squeezed(line: &str) -> Cow<'_, str> {
    let is_beside = |it: char| PUNCTUATION.contains(it);
    let mut result = String::with_capacity(line.len());
    let mut quote = None;
    let mut rest = line.chars().peekable();
    while let Some(next) = rest.next() {
        match (quote, next) {
            (None, '/' | '`') | (_, '\\') => return line.into(),
            (None, '"' | '\'') => quote = Some(next),
            (None, ' ') => {
                let around = [result.chars().last(), rest.peek().copied()];
                if around.into_iter().flatten().any(is_beside) {
                    continue;
                }
            }
            (Some(open), _) if open == next => quote = None,
            _ => {}
        }
        result.push(next);
    }
    result.into()
}

/// All comments and indentation outside strings.
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
        if quote.is_none() && INDENT.contains(&next) && result.ends_with('\n') {
            rest = &rest[1..];
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
        assert_eq!(lean(text, Syntax::Script), expected);
        let template = "let a = `\n// b\n/* c */`;\n// d";
        assert_eq!(
            lean(template, Syntax::Script),
            "let a = `\n// b\n/* c */`;\n"
        );
        let indented = "{\n  a;\n\t b = `\n  c`;\n  d = 'e\\\n  f';\n  /* g */ h;\n  \n}";
        assert_eq!(
            lean(indented, Syntax::Script),
            "{\na;\nb = `\n  c`;\nd = 'e\\\n  f';\n/* g */ h;\n\n}"
        );
    }

    #[test]
    fn spaces_go_where_nothing_needs_them() {
        for (text, expected) in [
            (
                "import { a, b } from \"./c.js\";",
                "import{a,b}from\"./c.js\";",
            ),
            ("const a = b ? -1 : +c;", "const a=b?-1:+c;"),
            (
                "return !(a in b) && c instanceof D;",
                "return!(a in b)&&c instanceof D;",
            ),
            (
                "f(\"a = b\", 'c, \"d\" : e', g);",
                "f(\"a = b\",'c, \"d\" : e',g);",
            ),
            ("a + ++b - -c;", "a + ++b - -c;"),
            ("a = b / c; d = / e = /;", "a = b / c; d = / e = /;"),
            ("a = `b , ${c}`;", "a = `b , ${c}`;"),
            ("a = 'b\\' = c';", "a = 'b\\' = c';"),
        ] {
            assert_eq!(lean(text, Syntax::Script), expected);
        }
    }

    #[test]
    fn of_styles() {
        let text = "/* a\nb */ c { content: \"/* d */\\\"/*\"; /* e */ f: url('/*') } /* open\n";
        let expected = "\nc { content: \"/* d */\\\"/*\";  f: url('/*') } \n";
        assert_eq!(lean(text, Syntax::Style), expected);
        let indented = "@media x {\n  a {\n    b: c  d;\n    e: 'f\\\n  g';\n  }\n}";
        assert_eq!(
            lean(indented, Syntax::Style),
            "@media x {\na {\nb: c  d;\ne: 'f\\\n  g';\n}\n}"
        );
    }

    proptest! {
        #[test]
        fn lines_stay_lines(text in "([/*`\"'\\\\aé \n]|/\\*|\\*/|//){0,60}") {
            let breaks = |text: &str| text.matches('\n').count();
            for syntax in [Syntax::Script, Syntax::Style] {
                let sent = lean(&text, syntax);
                prop_assert_eq!(breaks(&sent), breaks(&text));
                if !text.contains("//") && !text.contains("/*") {
                    let lines = |text: &str| -> Vec<String> {
                        let lines = text.split('\n');
                        lines.map(|line| line.replace(' ', "")).collect()
                    };
                    prop_assert_eq!(lines(&sent), lines(&text));
                }
            }
        }
    }
}
