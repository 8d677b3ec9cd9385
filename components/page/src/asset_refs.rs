//! Finds and rewrites the references from one asset to others.

use std::ops::Range;

/// How a file format writes references to other assets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Syntax {
    /// `"./NAME"`, relative to the module.
    JavaScript,
    /// `"NAME"`, as in `url("NAME")`, relative to the style sheet.
    Css,
    /// `"/static/NAME"`.
    Html,
}

impl Syntax {
    /// Returns the syntax of the file `name`, or `None` if its format holds no references.
    pub(crate) fn of(name: &str) -> Option<Self> {
        match name.rsplit_once('.')?.1 {
            "js" | "mjs" => Some(Syntax::JavaScript),
            "css" => Some(Syntax::Css),
            _ => None,
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Syntax::JavaScript => "./",
            Syntax::Css => "",
            Syntax::Html => "/static/",
        }
    }

    /// Finds the candidates for asset names in `text`.
    ///
    /// A candidate stands between double quotes on one line, after the prefix, and
    /// contains a dot but no space. The caller checks whether such an asset exists.
    pub(crate) fn find_refs(self, text: &str) -> impl Iterator<Item = Range<usize>> {
        let prefix = self.prefix();
        text.match_indices('"').filter_map(move |(quote, _)| {
            let rest = text[quote + 1..].strip_prefix(prefix)?;
            let length = rest.find(['"', '\n', ' '])?;
            let start = quote + 1 + prefix.len();
            let is_closed = rest.as_bytes()[length] == b'"';
            (is_closed && rest[..length].contains('.')).then_some(start..start + length)
        })
    }
}

/// Replaces each reference in `text` for which `replace` returns a name.
pub(crate) fn replace_refs(
    text: &str,
    syntax: Syntax,
    mut replace: impl FnMut(&str) -> Option<String>,
) -> String {
    let mut result = String::with_capacity(text.len() + 256);
    let mut copied = 0;
    for range in syntax.find_refs(text) {
        if let Some(replacement) = replace(&text[range.clone()]) {
            result.push_str(&text[copied..range.start]);
            result.push_str(&replacement);
            copied = range.end;
        }
    }
    result.push_str(&text[copied..]);
    result
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(syntax: Syntax, text: &str) -> Vec<&str> {
        syntax.find_refs(text).map(|range| &text[range]).collect()
    }

    #[test]
    fn each_syntax_finds_its_references() {
        let script =
            r#"import { a } from "./a.js"; await import("./b/c.js"); f("x.js", "./d", ".");"#;
        assert_eq!(names(Syntax::JavaScript, script), ["a.js", "b/c.js"]);
        let style =
            r#"@import "a.css"; b { background: url("c.svg"); content: ""; font-family: "A B.C" }"#;
        assert_eq!(names(Syntax::Css, style), ["a.css", "c.svg"]);
        let page = r#"<link rel="icon" href="/static/i.svg"><script src="/static/m.js"></script><a href="/x.js">"#;
        assert_eq!(names(Syntax::Html, page), ["i.svg", "m.js"]);
        assert_eq!(names(Syntax::JavaScript, "\"./open.js\n\""), [""; 0]);
    }

    #[test]
    fn only_known_references_are_replaced() {
        let text = r#"import "./a.js"; import "./b.js"; import "./a.js";"#;
        let replace = |name: &str| (name == "a.js").then(|| "A".to_owned());
        assert_eq!(
            replace_refs(text, Syntax::JavaScript, replace),
            r#"import "./A"; import "./b.js"; import "./A";"#
        );
    }

    proptest! {
        #[test]
        fn replacing_names_by_themselves_changes_nothing(text in "([\"./ab\n é]|\\./|/static/){0,40}") {
            for syntax in [Syntax::JavaScript, Syntax::Css, Syntax::Html] {
                let same = replace_refs(&text, syntax, |name| Some(name.to_owned()));
                prop_assert_eq!(&same, &text);
            }
        }
    }
}
