//! Reads the components that are composed into others: `dependencies` of a component, and the
//! middleware of a trigger.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    context::Context,
    dependency_name::DependencyName,
    model::{Dependency, Inherit, Source},
    reader::{Table, Value},
    source,
    suggest::suggest,
};

/// What dependencies need to know about a `[component.ID]` table.
pub(super) struct DependencySource {
    /// `None` if the source is invalid.
    pub(super) source: Option<Source>,
    /// The settings that would be lost if the component was a dependency.
    pub(super) own_settings: Vec<&'static str>,
}

/// The settings that a dependency must not have. It shares those of the component instead.
const OWN_SETTINGS: [&str; 9] = [
    "ai_models",
    "allowed_http_hosts",
    "allowed_outbound_hosts",
    "dependencies",
    "environment",
    "files",
    "key_value_stores",
    "sqlite_databases",
    "variables",
];

impl DependencySource {
    /// Reads the table of a component and that of its profile.
    pub(super) fn read<'a>(context: &Context<'_>, mut table: Table<'a>) -> Self {
        let mut profile = table
            .get("profile")
            .filter(Value::is_table)
            .and_then(|value| value.table()?.get_any(context.profile?))
            .filter(Value::is_table)
            .and_then(|value| value.table());
        let source = profile.as_mut().and_then(|profile| profile.get("source"));
        let source = source.or_else(|| table.get("source"));
        let is_set = |name: &&'static str| {
            let profile = profile.as_mut().and_then(|profile| profile.get(name));
            let mut values = table.get(name).into_iter().chain(profile);
            values.any(|value| !value.is_empty())
        };
        let own_settings = OWN_SETTINGS.into_iter().filter(is_set).collect();
        Self {
            source: source.and_then(|value| source::read(context.root, &value)),
            own_settings,
        }
    }
}

/// Reads `dependencies` of a component. `replacing` are the dependencies of the profile.
///
/// `inherit_all` is `dependencies_inherit_configuration`, if it is set.
pub(super) fn read_all<'a>(
    context: &Context<'a>,
    value: Option<&Value<'a>>,
    replacing: Option<&Value<'a>>,
    inherit_all: Option<bool>,
) -> BTreeMap<DependencyName, Dependency> {
    let mut entries: BTreeMap<DependencyName, (Value<'a>, Draft<'a>)> = BTreeMap::new();
    for value in [value, replacing].into_iter().flatten() {
        entries.extend(read_entries(context, value));
    }
    let mut names: Vec<&DependencyName> = Vec::new();
    for (name, (value, draft)) in &entries {
        if let Some(other) = names.iter().find(|other| name.conflicts_with(other)) {
            value.error(format!(
                "it stands for the same imports as the dependency \"{other}\": \
                 name interfaces or versions that differ"
            ));
        }
        names.push(name);
        if inherit_all.is_some() && draft.inherit.is_some() {
            value.error(
                "`inherit_configuration` cannot be combined with \
                 `dependencies_inherit_configuration` of the component: use one of them",
            );
        }
    }
    let default = if inherit_all == Some(true) {
        Inherit::All
    } else {
        Inherit::NONE
    };
    let dependencies = entries.into_iter().filter_map(|(name, (value, draft))| {
        let dependency = draft.resolve(context, &value, &default)?;
        Some((name, dependency))
    });
    dependencies.collect()
}

/// Checks dependencies that are not used: those of another profile.
pub(super) fn check_unused(context: &Context<'_>, value: &Value<'_>) {
    read_entries(context, value);
}

/// Reads `dependencies` of a trigger, which has one entry, `middleware`.
pub(super) fn read_middleware(context: &Context<'_>, value: &Value<'_>) -> Vec<Dependency> {
    let Some(mut table) = value.table() else {
        return Vec::new();
    };
    let middleware = table.get("middleware");
    table.finish();
    let Some(middleware) = middleware else {
        return Vec::new();
    };
    let entries = middleware.array();
    let dependencies = entries.iter().filter_map(|entry| {
        let draft = Draft::read(context, entry, None)?;
        draft.resolve(context, entry, &Inherit::NONE)
    });
    dependencies.collect()
}

fn read_entries<'a>(
    context: &Context<'_>,
    value: &Value<'a>,
) -> Vec<(DependencyName, (Value<'a>, Draft<'a>))> {
    let Some(table) = value.table() else {
        return Vec::new();
    };
    let mut entries = Vec::new();
    for (text, value) in table.entries() {
        let name = match DependencyName::parse(text) {
            Ok(name) => name,
            Err(reason) => {
                value.error(format!("invalid name of a dependency: {reason}"));
                continue;
            }
        };
        if let Some(draft) = Draft::read(context, &value, Some(&name)) {
            entries.push((name, (value, draft)));
        }
    }
    entries
}

/// A dependency whose component has not been looked up.
struct Draft<'a> {
    origin: Origin<'a>,
    export: Option<String>,
    inherit: Option<Inherit>,
}

enum Origin<'a> {
    Source(Source),
    /// The source of a component of the manifest, by its id.
    Component(Value<'a>, &'a str),
}

impl<'a> Draft<'a> {
    /// Reads a dependency. Middleware has no name.
    fn read(
        context: &Context<'_>,
        value: &Value<'a>,
        name: Option<&DependencyName>,
    ) -> Option<Self> {
        if let Some(name) = name
            && value.is_string()
        {
            let version = value.string()?;
            let package = require_package(value, name)?;
            check_version(value, version);
            return Some(Self {
                origin: Origin::Source(Source::Package(format!("{package}@{version}"))),
                export: None,
                inherit: None,
            });
        }
        let expected = "`path`, `component`, `url` and `digest`, or `package` and `version`";
        if !value.is_table() {
            value.error(format!(
                "expected a table with {expected}, found {}",
                value.type_name()
            ));
            return None;
        }
        let mut table = value.table()?;
        let [path, component, url, version] =
            ["path", "component", "url", "version"].map(|name| table.get(name));
        let kinds = [&path, &component, &url, &version];
        if kinds.into_iter().flatten().count() != 1 {
            value.error(format!("expected exactly one of {expected}"));
            return None;
        }
        let origin = if let Some(path) = path {
            source::read_path(context.root, &path).map(Origin::Source)
        } else if let Some(component) = component {
            let id = component.string();
            id.map(|id| Origin::Component(component, id))
        } else if let Some(url) = url {
            let digest = source::require_digest(&mut table);
            source::read_download(&url, digest.as_ref()).map(Origin::Source)
        } else {
            read_package(&mut table, value, version.as_ref(), name).map(Origin::Source)
        };
        let export = name.and_then(|name| read_export(&mut table, name));
        let inherit = table
            .get("inherit_configuration")
            .map(|value| read_inherit(&value));
        table.finish();
        Some(Self {
            origin: origin?,
            export,
            inherit,
        })
    }

    /// Looks up its component, and reports what the embedded runtime does not support.
    fn resolve(
        self,
        context: &Context<'_>,
        value: &Value<'_>,
        default: &Inherit,
    ) -> Option<Dependency> {
        let source = match self.origin {
            Origin::Source(source) => source,
            Origin::Component(value, id) => find_component(context, &value, id)?,
        };
        source::check_supported(context, value, &source);
        Some(Dependency {
            source,
            export: self.export,
            inherit: self.inherit.unwrap_or_else(|| default.clone()),
        })
    }
}

fn find_component(context: &Context<'_>, value: &Value<'_>, id: &str) -> Option<Source> {
    let Some(found) = context.dependency_sources.get(id) else {
        let suggestion = suggest(id, context.dependency_sources.keys().map(String::as_str));
        value.error(format!("no [component.{id}]{suggestion}"));
        return None;
    };
    if !found.own_settings.is_empty() {
        value.error(format!(
            "the component {id:?} cannot be a dependency, because it has settings of its own: {}; \
             set them for the component that uses it, and share them with `inherit_configuration`",
            found.own_settings.join(", ")
        ));
        return None;
    }
    context.composed.borrow_mut().insert(id.to_owned());
    found.source.clone()
}

fn read_package(
    table: &mut Table<'_>,
    value: &Value<'_>,
    version: Option<&Value<'_>>,
    name: Option<&DependencyName>,
) -> Option<Source> {
    if let Some(registry) = table.get("registry") {
        registry.string();
    }
    let package = table.get("package");
    let package = match (&package, name) {
        (Some(package), _) => package.string()?.to_owned(),
        (None, Some(name)) => require_package(value, name)?,
        (None, None) => {
            value
                .error("`package` is missing: the name of a package, such as \"me:my-middleware\"");
            return None;
        }
    };
    let version = version?;
    let text = version.string()?;
    check_version(version, text);
    Some(Source::Package(format!("{package}@{text}")))
}

/// Returns the package of a dependency that names no other one.
fn require_package(value: &Value<'_>, name: &DependencyName) -> Option<String> {
    match name {
        DependencyName::Package { package, .. } => Some(package.clone()),
        DependencyName::Plain(_) => {
            value.error("`package` is missing: the name of this import is not that of a package");
            None
        }
    }
}

fn check_version(value: &Value<'_>, text: &str) {
    if let Err(error) = semver::VersionReq::parse(text) {
        value.error(format!(
            "invalid version {text:?}: {error}; expected a requirement such as \">= 0.1.0\""
        ));
    }
}

fn read_export(table: &mut Table<'_>, name: &DependencyName) -> Option<String> {
    let export = table.get("export")?;
    let stands_for_package = matches!(
        name,
        DependencyName::Package {
            interface: None,
            ..
        }
    );
    if stands_for_package {
        export.error(
            "an export provides one interface, and this dependency stands for a whole package: \
             add the interface to its name",
        );
    }
    export.string().map(str::to_owned)
}

fn read_inherit(value: &Value<'_>) -> Inherit {
    if !value.is_array() {
        let Some(all) = value.boolean() else {
            return Inherit::NONE;
        };
        return if all { Inherit::All } else { Inherit::NONE };
    }
    let mut keys = BTreeSet::new();
    for entry in value.array() {
        let Some(key) = entry.string() else { continue };
        // Spin ignores other keys too.
        if !Inherit::KEYS.contains(&key) {
            let suggestion = suggest(key, Inherit::KEYS.into_iter());
            let expected = Inherit::KEYS.join(", ");
            entry.warn(format!(
                "{key:?} has no effect{suggestion}; expected one of {expected}"
            ));
        }
        keys.insert(key.to_owned());
    }
    Inherit::Only(keys)
}
