//! References from one asset to others: where they stand in its text.

use std::ops::Range;

/// How a text names the files beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// JavaScript: `"./NAME"`.
    Script,
    /// CSS: `"NAME"`, as in `url("NAME")`.
    Style,
    /// HTML, seen from the root: `"/static/NAME"`.
    Page,
}

impl Syntax {
    /// The syntax of the file `name`; `None` where nothing is looked for.
    pub fn of(name: &str) -> Option<Self> {
        match name.rsplit_once('.')?.1 {
            "js" | "mjs" => Some(Syntax::Script),
            "css" => Some(Syntax::Style),
            _ => None,
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Syntax::Script => "./",
            Syntax::Style => "",
            Syntax::Page => "/static/",
        }
    }

    /// Where the names of files may be in `text`: all that stands between double
    /// quotes on one line behind the prefix and looks like a name. Whether there
    /// are such files is for others to find out.
    pub fn find(self, text: &str) -> impl Iterator<Item = Range<usize>> {
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

/// `text` with what `replace` gives for each of these names, where it gives anything.
pub fn replaced(
    text: &str,
    syntax: Syntax,
    mut replace: impl FnMut(&str) -> Option<String>,
) -> String {
    let mut result = String::with_capacity(text.len() + 256);
    let mut copied = 0;
    for name in syntax.find(text) {
        if let Some(replacement) = replace(&text[name.clone()]) {
            result.push_str(&text[copied..name.start]);
            result.push_str(&replacement);
            copied = name.end;
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
        syntax.find(text).map(|name| &text[name]).collect()
    }

    #[test]
    fn each_syntax_has_its_own() {
        let script =
            r#"import { a } from "./a.js"; await import("./b/c.js"); f("x.js", "./d", ".");"#;
        assert_eq!(names(Syntax::Script, script), ["a.js", "b/c.js"]);
        let style =
            r#"@import "a.css"; b { background: url("c.svg"); content: ""; font-family: "A B.C" }"#;
        assert_eq!(names(Syntax::Style, style), ["a.css", "c.svg"]);
        let page = r#"<link rel="icon" href="/static/i.svg"><script src="/static/m.js"></script><a href="/x.js">"#;
        assert_eq!(names(Syntax::Page, page), ["i.svg", "m.js"]);
        assert_eq!(names(Syntax::Script, "\"./open.js\n\""), [""; 0]);
    }

    #[test]
    fn only_what_is_known_is_replaced() {
        let text = r#"import "./a.js"; import "./b.js"; import "./a.js";"#;
        let replace = |name: &str| (name == "a.js").then(|| "A".to_owned());
        assert_eq!(
            replaced(text, Syntax::Script, replace),
            r#"import "./A"; import "./b.js"; import "./A";"#
        );
    }

    proptest! {
        #[test]
        fn nothing_else_changes(text in "([\"./ab\n é]|\\./|/static/){0,40}") {
            for syntax in [Syntax::Script, Syntax::Style, Syntax::Page] {
                let same = replaced(&text, syntax, |name| Some(name.to_owned()));
                prop_assert_eq!(&same, &text);
            }
        }
    }
}
