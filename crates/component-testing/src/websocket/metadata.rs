//! The `Meta-NAME` headers that a component gets back.

use grip::header::{META_PREFIX, SET_META_PREFIX};
use http::{HeaderMap, HeaderName, HeaderValue};

/// The values that a component has set with `Set-Meta-NAME`.
#[derive(Default)]
pub(super) struct Metadata(Vec<(HeaderName, HeaderValue)>);

impl Metadata {
    /// Applies the headers of a response. An empty value removes a name.
    pub(super) fn update(&mut self, headers: &HeaderMap) {
        for (name, value) in headers {
            let name = name.as_str().strip_prefix(SET_META_PREFIX);
            let name = name.map(|name| HeaderName::try_from(format!("{META_PREFIX}{name}")));
            let Some(Ok(name)) = name else { continue };
            self.0.retain(|(existing, _)| *existing != name);
            if !value.is_empty() {
                self.0.push((name, value.clone()));
            }
        }
    }

    /// Adds the values to a request.
    pub(super) fn add_to(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.0 {
            headers.insert(name.clone(), value.clone());
        }
    }
}
