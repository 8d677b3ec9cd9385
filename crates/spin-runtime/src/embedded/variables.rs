//! The variable interfaces of guests: Spin 3 (asynchronous), Spin 2 and `wasi:config`.

use std::collections::BTreeMap;

use wasmtime::{
    Result,
    component::{Accessor, HasData, Linker},
};

use super::{
    bindings::{fermyon::spin::variables as v2, spin::variables::variables as v3, wasi::config},
    state::Guest,
};

/// A component's variables, their templates expanded.
pub type Values = BTreeMap<String, String>;

/// Adds the three interfaces to `linker`.
pub fn add_to_linker(linker: &mut Linker<Guest>) -> Result<()> {
    v3::add_to_linker::<_, Variables>(linker, view)?;
    v2::add_to_linker::<_, Variables>(linker, view)?;
    config::store::add_to_linker::<_, Variables>(linker, view)
}

fn view(guest: &mut Guest) -> View<'_> {
    View(&guest.component.variables)
}

/// The part of a [`Guest`] that these interfaces see.
pub struct View<'a>(&'a Values);

/// Names [`View`] to wasmtime.
pub struct Variables;

impl HasData for Variables {
    type Data<'a> = View<'a>;
}

type Host<T> = Accessor<T, Variables>;

/// Why there is no value.
enum Missing {
    InvalidName(String),
    Undefined(String),
}

impl View<'_> {
    fn find(&self, name: &str) -> Result<String, Missing> {
        if !is_name(name) {
            return Err(Missing::InvalidName(format!(
                "{name:?}: a variable's name is lower-case letters, digits and single underscores, \
             and begins with a letter"
            )));
        }
        let undefined = || Missing::Undefined(format!("no variable {name:?} for this component"));
        self.0.get(name).cloned().ok_or_else(undefined)
    }
}

/// Spin's rule: words of lower-case letters and digits, joined by one underscore each; the first
/// character is a letter.
fn is_name(name: &str) -> bool {
    let word = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.split('_').all(word)
}

impl v3::Host for View<'_> {}

impl<T: Send + 'static> v3::HostWithStore<T> for Variables {
    async fn get(host: &Host<T>, name: String) -> Result<Result<String, v3::Error>> {
        Ok(host
            .with(|mut access| access.get().find(&name))
            .map_err(|missing| match missing {
                Missing::InvalidName(text) => v3::Error::InvalidName(text),
                Missing::Undefined(text) => v3::Error::Undefined(text),
            }))
    }
}

impl v2::Host for View<'_> {
    async fn get(&mut self, name: String) -> Result<Result<String, v2::Error>> {
        Ok(self.find(&name).map_err(|missing| match missing {
            Missing::InvalidName(text) => v2::Error::InvalidName(text),
            Missing::Undefined(text) => v2::Error::Undefined(text),
        }))
    }
}

impl config::store::Host for View<'_> {
    /// A name that cannot be is one without a value here.
    async fn get(&mut self, name: String) -> Result<Result<Option<String>, config::store::Error>> {
        Ok(Ok(self.find(&name).ok()))
    }

    async fn get_all(&mut self) -> Result<Result<Vec<(String, String)>, config::store::Error>> {
        let all = |(name, value): (&String, &String)| (name.clone(), value.clone());
        Ok(Ok(self.0.iter().map(all).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn names_follow_spins_rule() {
        for name in ["a", "grip_url", "a1", "a_1", "a_b_c"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "1a", "_a", "a_", "a__b", "A", "a-b", "a b", "é"] {
            assert!(!is_name(name), "{name}");
        }
    }
}
