//! Typed access to the manifest's TOML that remembers where each value stands.
//!
//! A wrong value is noted and reading goes on, so that one look at the output shows everything
//! that is wrong.

use std::{cell::RefCell, collections::BTreeMap, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::error::Problem;

/// The text being read and what was found wrong in it so far.
pub(super) struct Notes<'a> {
    text: &'a str,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Notes<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            problems: RefCell::default(),
        }
    }

    /// Notes a problem at a byte of the text.
    pub(super) fn add(&self, at: Option<usize>, key: &str, message: impl Into<String>) {
        let line = at.map(|at| self.line(at));
        let problem = Problem {
            line,
            key: key.to_owned(),
            message: message.into(),
        };
        self.problems.borrow_mut().push(problem);
    }

    /// The line, from 1, of a byte of the text.
    pub(super) fn line(&self, at: usize) -> usize {
        self.text
            .bytes()
            .take(at)
            .filter(|byte| *byte == b'\n')
            .count()
            + 1
    }

    pub(super) fn is_empty(&self) -> bool {
        self.problems.borrow().is_empty()
    }

    /// Everything that was noted, in the order of the file, each once.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort();
        problems.dedup();
        problems
    }
}

/// A value and its place.
#[derive(Clone)]
pub(super) struct Value<'a> {
    notes: &'a Notes<'a>,
    value: &'a DeValue<'a>,
    /// Where the key stands, or the value where there is no key.
    at: usize,
    /// The dotted path from the root.
    pub(super) key: String,
}

impl<'a> Value<'a> {
    /// Notes that this value is wrong.
    pub(super) fn wrong(&self, message: impl Into<String>) {
        self.notes.add(Some(self.at), &self.key, message);
    }

    /// The line it stands on, from 1.
    pub(super) fn line(&self) -> usize {
        self.notes.line(self.at)
    }

    fn expected(&self, what: &str) {
        self.wrong(format!("expected {what}, found {}", self.kind()));
    }

    /// What kind of value it is, with its article.
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        }
    }

    pub(super) fn is_str(&self) -> bool {
        self.value.is_str()
    }

    pub(super) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    pub(super) fn is_integer(&self) -> bool {
        self.value.is_integer()
    }

    pub(super) fn is_array(&self) -> bool {
        self.value.is_array()
    }

    pub(super) fn string(&self) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            self.expected("a string");
        }
        text
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        let flag = self.value.as_bool();
        if flag.is_none() {
            self.expected("true or false");
        }
        flag
    }

    pub(super) fn integer(&self) -> Option<i64> {
        let Some(number) = self.value.as_integer() else {
            self.expected("an integer");
            return None;
        };
        let parsed = i64::from_str_radix(number.as_str(), number.radix());
        if parsed.is_err() {
            self.wrong(format!("{number} does not fit a 64-bit integer"));
        }
        parsed.ok()
    }

    /// The elements of an array, each under its index: `files[0]`.
    pub(super) fn array(&self) -> Vec<Value<'a>> {
        let Some(items) = self.value.as_array() else {
            self.expected("an array");
            return Vec::new();
        };
        let element = |(index, item): (usize, &'a Spanned<DeValue<'a>>)| Value {
            notes: self.notes,
            value: item.get_ref(),
            at: item.span().start,
            key: format!("{}[{index}]", self.key),
        };
        items.iter().enumerate().map(element).collect()
    }

    /// An array of strings.
    pub(super) fn strings(&self) -> Vec<String> {
        self.array()
            .iter()
            .filter_map(Value::string)
            .map(str::to_owned)
            .collect()
    }

    /// A table whose values are strings, whatever its keys.
    pub(super) fn string_map(&self) -> BTreeMap<String, String> {
        let Some(table) = self.table() else {
            return BTreeMap::new();
        };
        let pair =
            |(name, value): (&str, Value<'_>)| Some((name.to_owned(), value.string()?.to_owned()));
        table.entries().filter_map(pair).collect()
    }

    pub(super) fn table(&self) -> Option<Table<'a>> {
        let table = self.value.as_table();
        if table.is_none() {
            self.expected("a table");
        }
        Some(Table {
            notes: self.notes,
            table: table?,
            at: self.at,
            key: self.key.clone(),
            known: Vec::new(),
        })
    }
}

/// A table and its place. A table with a fixed set of keys is read with [`Self::get`] for each of
/// them and then [`Self::finish`], which notes every other key.
pub(super) struct Table<'a> {
    notes: &'a Notes<'a>,
    table: &'a DeTable<'a>,
    at: usize,
    key: String,
    known: Vec<&'static str>,
}

impl<'a> Table<'a> {
    pub(super) fn root(notes: &'a Notes<'a>, table: &'a DeTable<'a>) -> Self {
        Self {
            notes,
            table,
            at: 0,
            key: String::new(),
            known: Vec::new(),
        }
    }

    /// Notes that something about the whole table is wrong.
    pub(super) fn wrong(&self, message: impl Into<String>) {
        self.notes.add(Some(self.at), &self.key, message);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(super) fn get(&mut self, name: &'static str) -> Option<Value<'a>> {
        self.known.push(name);
        let (key, value) = self.table.get_key_value(name)?;
        Some(self.value(key.get_ref(), key.span(), value))
    }

    /// The value of a key that must be there; notes when it is not, and what it is for.
    pub(super) fn require(&mut self, name: &'static str, what: &str) -> Option<Value<'a>> {
        let value = self.get(name);
        if value.is_none() {
            self.wrong(format!("`{name}` is missing: {what}"));
        }
        value
    }

    /// Every key with its value, in alphabetic order.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, Value<'a>)> {
        let entry = |(key, value): (&'a Spanned<_>, &'a Spanned<_>)| {
            let name: &'a std::borrow::Cow<'a, str> = key.get_ref();
            (name.as_ref(), self.value(name, key.span(), value))
        };
        self.table.iter().map(entry)
    }

    /// Notes the keys that [`Self::get`] was never asked for.
    pub(super) fn finish(self) {
        for (key, value) in self.table {
            let name = key.get_ref().as_ref();
            if !self.known.contains(&name) {
                let suggestion = suggest(name, self.known.iter().copied());
                let expected = self.known.join(", ");
                self.value(name, key.span(), value).wrong(format!(
                    "unknown key{suggestion}; expected one of {expected}"
                ));
            }
        }
    }

    fn value(&self, name: &str, span: Range<usize>, value: &'a Spanned<DeValue<'a>>) -> Value<'a> {
        let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let name = match !name.is_empty() && name.chars().all(bare) {
            true => name.to_owned(),
            false => format!("{name:?}"),
        };
        let key = match self.key.is_empty() {
            true => name,
            false => format!("{}.{name}", self.key),
        };
        Value {
            notes: self.notes,
            value: value.get_ref(),
            at: span.start,
            key,
        }
    }
}

/// ` (did you mean …?)` when one of the candidates is close to what was written, else nothing.
pub fn suggest<'c>(written: &str, candidates: impl Iterator<Item = &'c str>) -> String {
    // A name longer than this is no slip of a key.
    const LONGEST: usize = 64;
    if written.len() > LONGEST {
        return String::new();
    }
    let tolerated = (written.chars().count() / 3).clamp(1, 3);
    candidates
        .map(|candidate| (distance(written, candidate), candidate))
        .filter(|(distance, _)| *distance <= tolerated)
        .min()
        .map(|(_, candidate)| format!(" (did you mean `{candidate}`?)"))
        .unwrap_or_default()
}

/// How many single-character edits make one name of the other (Levenshtein), `-` and `_` alike.
fn distance(left: &str, right: &str) -> usize {
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
            let replaced = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("source", "source"), 0);
        assert_eq!(distance("sources", "source"), 1);
        assert_eq!(distance("sorce", "source"), 1);
        assert_eq!(distance("max_message_size", "max-message-size"), 0);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn suggestions_are_close_or_absent() {
        let known = ["source", "files", "description"];
        assert_eq!(
            suggest("sources", known.into_iter()),
            " (did you mean `source`?)"
        );
        assert_eq!(suggest("wasm", known.into_iter()), "");
    }
}
