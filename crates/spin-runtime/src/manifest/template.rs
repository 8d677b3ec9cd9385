//! Templates: text that contains `{{ variable }}`.

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable(String),
}

impl Template {
    /// Parses a template.
    ///
    /// Everything between `{{` and the next `}}`, without surrounding spaces, is the name of a
    /// variable. `{{` cannot be escaped.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let Some((name, after)) = after.split_once("}}") else {
                return Err("`{{` is never closed with `}}`".to_owned());
            };
            parts.push(Part::Variable(name.trim().to_owned()));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self { parts })
    }

    /// Returns the names of its variables.
    pub(crate) fn variables(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Variable(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// Replaces each variable with its value.
    ///
    /// # Errors
    /// Returns the name of the first variable without a value.
    pub(crate) fn render<'v>(
        &self,
        value: impl Fn(&str) -> Option<&'v str>,
    ) -> Result<String, &str> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Variable(name) => text.push_str(value(name).ok_or(name.as_str())?),
            }
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(text: &str) -> Result<String, String> {
        let template = Template::parse(text)?;
        let value = |name: &str| match name {
            "a" => Some("1"),
            "b" => Some("{{ a }}"),
            _ => None,
        };
        template.render(value).map_err(str::to_owned)
    }

    #[test]
    fn values_are_not_parsed_as_templates() {
        assert_eq!(render(""), Ok(String::new()));
        assert_eq!(render("plain } text {"), Ok("plain } text {".to_owned()));
        assert_eq!(render("x{{a}}y{{  a  }}z"), Ok("x1y1z".to_owned()));
        assert_eq!(render("{{ b }}"), Ok("{{ a }}".to_owned()));
        assert_eq!(render("{{ c }}"), Err("c".to_owned()));
        assert_eq!(render("{{}}"), Err(String::new()));
        assert_eq!(render("{{ a }}}"), Ok("1}".to_owned()));
        assert_eq!(render("{{{ a }}}"), Err("{ a".to_owned()));
        assert!(render("{{ a").is_err());
        assert!(render("{{ a }} {{ b }").is_err());
    }
}
