//! The interfaces for variables: `spin:variables@3`, `fermyon:spin/variables@2` and `wasi:config`.

use std::collections::BTreeMap;

use wasmtime::{
    Result,
    component::{Accessor, HasData, Linker},
};

use super::{
    bindings::{fermyon::spin::variables as v2, spin::variables::variables as v3, wasi::config},
    guest::Guest,
};

/// Adds the interfaces to a linker.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> Result<()> {
    v3::add_to_linker::<_, Variables>(linker, view)?;
    v2::add_to_linker::<_, Variables>(linker, view)?;
    config::store::add_to_linker::<_, Variables>(linker, view)
}

fn view(guest: &mut Guest) -> View<'_> {
    View(&guest.component.variables)
}

/// The part of a [`Guest`] that the interfaces access.
pub(crate) struct View<'a>(&'a BTreeMap<String, String>);

/// Tells Wasmtime the type of the [`View`].
pub(crate) struct Variables;

impl HasData for Variables {
    type Data<'a> = View<'a>;
}

type Host<T> = Accessor<T, Variables>;

/// Why a variable has no value.
enum VariableError {
    InvalidName(String),
    Undefined(String),
}

impl View<'_> {
    fn lookup(&self, name: &str) -> Result<String, VariableError> {
        if !is_valid_name(name) {
            return Err(VariableError::InvalidName(format!(
                "invalid variable name {name:?}: expected lower-case letters, digits and single \
                 underscores, starting with a letter"
            )));
        }
        self.0.get(name).cloned().ok_or_else(|| {
            VariableError::Undefined(format!("the component has no variable {name:?}"))
        })
    }
}

/// Checks Spin's rule for names: words of lower-case letters and digits, joined with single
/// underscores, starting with a letter.
fn is_valid_name(name: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.split('_').all(is_word)
}

impl v3::Host for View<'_> {}

impl<T: Send + 'static> v3::HostWithStore<T> for Variables {
    async fn get(host: &Host<T>, name: String) -> Result<Result<String, v3::Error>> {
        Ok(host
            .with(|mut access| access.get().lookup(&name))
            .map_err(|error| match error {
                VariableError::InvalidName(text) => v3::Error::InvalidName(text),
                VariableError::Undefined(text) => v3::Error::Undefined(text),
            }))
    }
}

impl v2::Host for View<'_> {
    async fn get(&mut self, name: String) -> Result<Result<String, v2::Error>> {
        Ok(self.lookup(&name).map_err(|error| match error {
            VariableError::InvalidName(text) => v2::Error::InvalidName(text),
            VariableError::Undefined(text) => v2::Error::Undefined(text),
        }))
    }
}

impl config::store::Host for View<'_> {
    /// An invalid name has no value, because the interface has no such error.
    async fn get(&mut self, name: String) -> Result<Result<Option<String>, config::store::Error>> {
        Ok(Ok(self.lookup(&name).ok()))
    }

    async fn get_all(&mut self) -> Result<Result<Vec<(String, String)>, config::store::Error>> {
        let all = |(name, value): (&String, &String)| (name.clone(), value.clone());
        Ok(Ok(self.0.iter().map(all).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::is_valid_name;

    #[test]
    fn names_follow_the_rule_of_spin() {
        for name in ["a", "grip_url", "a1", "a_1", "a_b_c"] {
            assert!(is_valid_name(name), "{name}");
        }
        for name in ["", "1a", "_a", "a_", "a__b", "A", "a-b", "a b", "é"] {
            assert!(!is_valid_name(name), "{name}");
        }
    }
}
