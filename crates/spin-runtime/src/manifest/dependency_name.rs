//! The names of dependencies: which imports of a component one provides.

use std::fmt;

use semver::{BuildMetadata, Version};

use super::id;

/// The imports that a dependency provides.
///
/// A name is a plain import such as `greeter`, an interface such as `me:tools/greet@1.0.0`, or a
/// package such as `me:tools`. Without a version it stands for every version, and without an
/// interface for every interface of the package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DependencyName {
    /// An import without a package.
    Plain(String),
    /// The imports of a package.
    Package {
        /// `NAMESPACE:NAME`.
        package: String,
        /// The only interface, if the name has one.
        interface: Option<String>,
        /// The only version, if the name has one.
        version: Option<Version>,
    },
}

impl DependencyName {
    /// Parses a name.
    ///
    /// # Errors
    /// Returns what is wrong with the name.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if !text.contains([':', '/']) {
            id::check_kebab(text)?;
            return Ok(Self::Plain(text.to_owned()));
        }
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => {
                let parsed = Version::parse(version)
                    .map_err(|error| format!("invalid version {version:?}: {error}"))?;
                (name, Some(parsed))
            }
            None => (text, None),
        };
        let (package, interface) = match name.split_once('/') {
            Some((package, interface)) => (package, Some(interface)),
            None => (name, None),
        };
        let (namespace, package_name) = package
            .split_once(':')
            .ok_or("expected a package, such as my:package, before the `/`")?;
        for word in [namespace, package_name].into_iter().chain(interface) {
            id::check_kebab(word).map_err(|reason| format!("{word:?}: {reason}"))?;
        }
        Ok(Self::Package {
            package: package.to_owned(),
            interface: interface.map(str::to_owned),
            version,
        })
    }

    /// Returns whether it stands for an import.
    #[cfg_attr(not(feature = "compose"), expect(dead_code))]
    pub(crate) fn matches(&self, import: &str) -> bool {
        let (name, import_version) = match import.split_once('@') {
            Some((name, version)) => (name, Version::parse(version).ok()),
            None => (import, None),
        };
        match self {
            Self::Plain(plain) => plain == import,
            Self::Package {
                package,
                interface,
                version,
            } => name.split_once('/').is_some_and(|(other, name)| {
                package == other
                    && interface
                        .as_deref()
                        .is_none_or(|interface| interface == name)
                    && (version.is_none() || *version == import_version)
            }),
        }
    }

    /// Returns whether both may stand for the same import.
    pub(super) fn conflicts_with(&self, other: &Self) -> bool {
        let (
            Self::Package {
                package,
                interface,
                version,
            },
            Self::Package {
                package: other_package,
                interface: other_interface,
                version: other_version,
            },
        ) = (self, other)
        else {
            return self == other;
        };
        let differ = |left: Option<Version>, right: Option<Version>| {
            left.zip(right).is_some_and(|(left, right)| left != right)
        };
        let compatible = |version: &Option<Version>| version.as_ref().map(compatible_version);
        let interfaces = interface.as_ref().zip(other_interface.as_ref());
        package == other_package
            && !differ(compatible(version), compatible(other_version))
            && interfaces.is_none_or(|(left, right)| left == right)
    }
}

/// Returns the lowest version that may be replaced by this one, under the rules of semver.
fn compatible_version(version: &Version) -> Version {
    let mut version = version.clone();
    version.build = BuildMetadata::EMPTY;
    if !version.pre.is_empty() {
        return version;
    }
    match (version.major, version.minor) {
        (0, 0) => {}
        (0, _) => version.patch = 0,
        _ => (version.minor, version.patch) = (0, 0),
    }
    version
}

impl fmt::Display for DependencyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(name) => f.write_str(name),
            Self::Package {
                package,
                interface,
                version,
            } => {
                f.write_str(package)?;
                if let Some(interface) = interface {
                    write!(f, "/{interface}")?;
                }
                if let Some(version) = version {
                    write!(f, "@{version}")?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> DependencyName {
        let name = DependencyName::parse(text).unwrap();
        assert_eq!(name.to_string(), text);
        name
    }

    #[test]
    fn names_stand_for_imports() {
        for (text, matching, other) in [
            (
                "a:b/c@0.1.0",
                &["a:b/c@0.1.0"][..],
                &["a:b/c", "a:b/c@0.1.1"][..],
            ),
            (
                "a:b/c",
                &["a:b/c@0.1.0", "a:b/c"],
                &["a:b/d", "a:b/c-d", "c"],
            ),
            ("a:b", &["a:b/c@0.1.0", "a:b/d"], &["a:bb/c", "a-b", "a:b"]),
            ("a:b@0.1.0", &["a:b/c@0.1.0"], &["a:b/c", "a:b/c@0.2.0"]),
            ("a-b", &["a-b"], &["a-c", "a:b/c"]),
        ] {
            let name = name(text);
            assert!(matching.iter().all(|import| name.matches(import)), "{text}");
            assert!(!other.iter().any(|import| name.matches(import)), "{text}");
        }
    }

    #[test]
    fn invalid_names_are_errors() {
        for text in [
            "", "a_b", "a/b", "a:", ":b", "a:b/", "a:b@1", "a:b@x", "a:b c", "a:b/c/d",
        ] {
            assert!(DependencyName::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_for_the_same_import_conflict() {
        for (left, right, conflict) in [
            ("a:b", "a:b/c", true),
            ("a:b@0.1.0", "a:b", true),
            ("a:b@0.1.0", "a:b@0.1.9", true),
            ("a:b@0.1.0", "a:b@0.2.0", false),
            ("a:b@1.0.0", "a:b/c@1.9.0", true),
            ("a:b@1.0.0-rc", "a:b@1.0.0", false),
            ("a:b/c", "a:b/d", false),
            ("a:b/c@0.1.0", "a:b@0.1.0", true),
            ("a:b", "a:c", false),
            ("a", "b", false),
        ] {
            let (left, right) = (name(left), name(right));
            assert_eq!(left.conflicts_with(&right), conflict, "{left} {right}");
            assert_eq!(right.conflicts_with(&left), conflict, "{left} {right}");
        }
    }
}
