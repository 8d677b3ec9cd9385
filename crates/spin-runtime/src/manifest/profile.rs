//! Reads `[component.ID.profile.NAME]`: settings that replace those of the component.

use super::{
    build,
    context::Context,
    dependencies,
    reader::{Table, Value},
    source,
};

/// The settings of the profile that applies.
#[derive(Default)]
pub(super) struct Profile<'a> {
    pub(super) source: Option<Value<'a>>,
    pub(super) environment: Option<Value<'a>>,
    pub(super) dependencies: Option<Value<'a>>,
    /// `build.command`.
    pub(super) command: Option<Value<'a>>,
}

/// Reads the profiles of a component. The others are only checked.
pub(super) fn read<'a>(context: &Context<'a>, table: &mut Table<'a>) -> Profile<'a> {
    let mut current = Profile::default();
    let profiles = table.get("profile").and_then(|value| value.table());
    let Some(profiles) = profiles else {
        return current;
    };
    for (name, value) in profiles.entries() {
        context.profiles.borrow_mut().insert(name.to_owned());
        let Some(table) = value.table() else { continue };
        let profile = Profile::read(table);
        if context.profile == Some(name) {
            current = profile;
        } else {
            profile.check(context);
        }
    }
    current
}

impl<'a> Profile<'a> {
    fn read(mut table: Table<'a>) -> Self {
        let [source, environment, dependencies] =
            ["source", "environment", "dependencies"].map(|name| table.get(name));
        let command = table.get("build").and_then(|value| {
            let mut build = value.table()?;
            let command = build.require("command", build::COMMAND);
            build.finish();
            command
        });
        table.finish();
        Self {
            source,
            environment,
            dependencies,
            command,
        }
    }

    /// Checks a profile that is not used.
    fn check(&self, context: &Context<'_>) {
        if let Some(value) = &self.source {
            source::read(context.root, value);
        }
        if let Some(value) = &self.environment {
            value.string_map();
        }
        if let Some(value) = &self.dependencies {
            dependencies::check_unused(context, value);
        }
        if let Some(value) = &self.command {
            build::read_commands(value);
        }
    }
}
