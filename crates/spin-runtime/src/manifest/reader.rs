//! Typed access to TOML that remembers the position of each value.
//!
//! A value of the wrong type or with the wrong content is reported and reading continues, so that
//! one run shows every problem of a file. Methods that return `None` or an empty collection for a
//! wrong value have already reported it.

use std::{cell::RefCell, collections::BTreeMap, fmt, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{error::Problem, suggest::suggest};

/// The text being read, and the problems and warnings about it.
pub(super) struct Diagnostics<'a> {
    text: &'a str,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<String>>,
}

impl<'a> Diagnostics<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            problems: RefCell::default(),
            warnings: RefCell::default(),
        }
    }

    /// Adds a problem at a byte offset of the text.
    pub(super) fn report(&self, offset: Option<usize>, key: &str, message: impl Into<String>) {
        let problem = Problem {
            line: offset.map(|offset| self.line(offset)),
            key: key.to_owned(),
            message: message.into(),
        };
        self.problems.borrow_mut().push(problem);
    }

    /// Returns the line, starting at 1, of a byte offset.
    fn line(&self, offset: usize) -> usize {
        let before = self.text.bytes().take(offset);
        before.filter(|byte| *byte == b'\n').count() + 1
    }

    pub(super) fn is_empty(&self) -> bool {
        self.problems.borrow().is_empty()
    }

    /// Returns all problems without duplicates, in the order of the file.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort();
        problems.dedup();
        problems
    }

    /// Returns all warnings, in the order in which they were added.
    pub(super) fn into_warnings(self) -> Vec<String> {
        self.warnings.into_inner()
    }
}

/// A value of a manifest and its position.
#[derive(Clone)]
pub struct Value<'a> {
    diagnostics: &'a Diagnostics<'a>,
    value: &'a DeValue<'a>,
    /// The byte offset of the key, or of the value if it has no key.
    offset: usize,
    key: String,
}

impl<'a> Value<'a> {
    /// Reports a problem with this value.
    pub fn error(&self, message: impl Into<String>) {
        self.diagnostics
            .report(Some(self.offset), &self.key, message);
    }

    /// Adds a warning about this value, which is valid.
    pub fn warn(&self, message: impl fmt::Display) {
        let warning = format!("{} (line {}): {message}", self.key, self.line());
        self.diagnostics.warnings.borrow_mut().push(warning);
    }

    fn expected(&self, what: &str) {
        self.error(format!("expected {what}, found {}", self.type_name()));
    }

    /// Returns the line of this value, starting at 1.
    pub fn line(&self) -> usize {
        self.diagnostics.line(self.offset)
    }

    /// Returns the dotted path of this value from the root.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the type of this value with its article: `a string`.
    pub fn type_name(&self) -> &'static str {
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

    /// Returns whether this value is a string.
    pub fn is_string(&self) -> bool {
        self.value.is_str()
    }

    /// Returns whether this value is a table.
    pub fn is_table(&self) -> bool {
        self.value.is_table()
    }

    /// Returns whether this value is an integer.
    pub fn is_integer(&self) -> bool {
        self.value.is_integer()
    }

    /// Returns whether this value is a table, an array or a string without contents.
    pub fn is_empty(&self) -> bool {
        match self.value {
            DeValue::String(text) => text.is_empty(),
            DeValue::Array(items) => items.is_empty(),
            DeValue::Table(table) => table.is_empty(),
            _ => false,
        }
    }

    /// Returns whether this value is an array.
    pub fn is_array(&self) -> bool {
        self.value.is_array()
    }

    /// Returns the string.
    pub fn string(&self) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            self.expected("a string");
        }
        text
    }

    /// Returns the boolean.
    pub fn boolean(&self) -> Option<bool> {
        let flag = self.value.as_bool();
        if flag.is_none() {
            self.expected("true or false");
        }
        flag
    }

    /// Returns the integer.
    pub fn integer(&self) -> Option<i64> {
        let Some(number) = self.value.as_integer() else {
            self.expected("an integer");
            return None;
        };
        let parsed = i64::from_str_radix(number.as_str(), number.radix());
        if parsed.is_err() {
            self.error(format!("{number} does not fit a 64-bit integer"));
        }
        parsed.ok()
    }

    /// Returns the elements of the array. The index is part of their keys: `files[0]`.
    pub fn array(&self) -> Vec<Value<'a>> {
        let Some(items) = self.value.as_array() else {
            self.expected("an array");
            return Vec::new();
        };
        let element = |(index, item): (usize, &'a Spanned<DeValue<'a>>)| Value {
            diagnostics: self.diagnostics,
            value: item.get_ref(),
            offset: item.span().start,
            key: format!("{}[{index}]", self.key),
        };
        items.iter().enumerate().map(element).collect()
    }

    /// Returns the elements of an array of strings.
    pub fn strings(&self) -> Vec<String> {
        let elements = self.array();
        let strings = elements.iter().filter_map(Value::string);
        strings.map(str::to_owned).collect()
    }

    /// Returns a table of strings with arbitrary keys.
    pub fn string_map(&self) -> BTreeMap<String, String> {
        let Some(table) = self.table() else {
            return BTreeMap::new();
        };
        let pair =
            |(name, value): (&str, Value<'_>)| Some((name.to_owned(), value.string()?.to_owned()));
        table.entries().filter_map(pair).collect()
    }

    /// Returns the table.
    pub fn table(&self) -> Option<Table<'a>> {
        let table = self.value.as_table();
        if table.is_none() {
            self.expected("a table");
        }
        Some(Table {
            diagnostics: self.diagnostics,
            table: table?,
            offset: self.offset,
            key: self.key.clone(),
            known_keys: Vec::new(),
        })
    }
}

/// A table of a manifest and its position.
///
/// To read a table with a fixed set of keys, call [`Self::get`] or [`Self::require`] for each of
/// them and then [`Self::finish`], which reports every other key.
pub struct Table<'a> {
    diagnostics: &'a Diagnostics<'a>,
    table: &'a DeTable<'a>,
    offset: usize,
    key: String,
    known_keys: Vec<&'static str>,
}

impl<'a> Table<'a> {
    pub(super) fn root(diagnostics: &'a Diagnostics<'a>, table: &'a DeTable<'a>) -> Self {
        Self {
            diagnostics,
            table,
            offset: 0,
            key: String::new(),
            known_keys: Vec::new(),
        }
    }

    /// Reports a problem with the table as a whole.
    pub fn error(&self, message: impl Into<String>) {
        self.diagnostics
            .report(Some(self.offset), &self.key, message);
    }

    /// Returns whether the table has no keys.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Returns the value of an optional key.
    pub fn get(&mut self, name: &'static str) -> Option<Value<'a>> {
        self.known_keys.push(name);
        let (key, value) = self.table.get_key_value(name)?;
        Some(self.value(key.get_ref(), key.span(), value))
    }

    /// Returns the value of a required key. A missing key is reported together with its `purpose`.
    pub fn require(&mut self, name: &'static str, purpose: &str) -> Option<Value<'a>> {
        let value = self.get(name);
        if value.is_none() {
            self.error(format!("`{name}` is missing: {purpose}"));
        }
        value
    }

    /// Returns the value of a key in a table with arbitrary keys.
    pub fn get_any(&self, name: &str) -> Option<Value<'a>> {
        let (key, value) = self.table.get_key_value(name)?;
        Some(self.value(key.get_ref(), key.span(), value))
    }

    /// Returns every key with its value, in alphabetical order.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, Value<'a>)> {
        let entry = |(key, value): (&'a Spanned<_>, &'a Spanned<_>)| {
            let name: &'a std::borrow::Cow<'a, str> = key.get_ref();
            (name.as_ref(), self.value(name, key.span(), value))
        };
        self.table.iter().map(entry)
    }

    /// Reports every key that has not been passed to [`Self::get`] or [`Self::require`].
    pub fn finish(self) {
        for (key, value) in self.table {
            let name = key.get_ref().as_ref();
            if !self.known_keys.contains(&name) {
                let suggestion = suggest(name, self.known_keys.iter().copied());
                let expected = self.known_keys.join(", ");
                self.value(name, key.span(), value).error(format!(
                    "unknown key{suggestion}; expected one of {expected}"
                ));
            }
        }
    }

    fn value(&self, name: &str, span: Range<usize>, value: &'a Spanned<DeValue<'a>>) -> Value<'a> {
        let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let name = if !name.is_empty() && name.chars().all(is_bare) {
            name.to_owned()
        } else {
            format!("{name:?}")
        };
        let key = if self.key.is_empty() {
            name
        } else {
            format!("{}.{name}", self.key)
        };
        Value {
            diagnostics: self.diagnostics,
            value: value.get_ref(),
            offset: span.start,
            key,
        }
    }
}
