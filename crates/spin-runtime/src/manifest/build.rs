//! Reads `[component.ID.build]`.

use std::path::Path;

use super::{context::Context, model::Build, reader::Value};

/// The expected value of `command`, for errors.
pub(super) const COMMAND: &str = "a shell command, or a list of them";

/// Reads the build of a component. `replacing` is the command of the profile.
pub(super) fn read(
    context: &Context<'_>,
    value: Option<&Value<'_>>,
    replacing: Option<&Value<'_>>,
) -> Option<Build> {
    let replacing = replacing.map(read_commands);
    let Some(value) = value else {
        return replacing.map(|commands| Build {
            commands,
            workdir: context.root.to_owned(),
            watch: Vec::new(),
            environment: Default::default(),
        });
    };
    let mut table = value.table()?;
    let commands = table.require("command", COMMAND);
    let commands = commands.map(|value| read_commands(&value));
    let workdir = table.get("workdir").and_then(|value| {
        let path = Path::new(value.string()?);
        if path.has_root() {
            value.error("expected a path relative to the manifest's folder");
        }
        Some(context.root.join(path))
    });
    let watch = table.get("watch");
    let watch = watch.map(|value| value.strings()).unwrap_or_default();
    let environment = table
        .get("environment")
        .map(|value| value.string_map())
        .unwrap_or_default();
    table.finish();
    Some(Build {
        commands: replacing.or(commands)?,
        workdir: workdir.unwrap_or_else(|| context.root.to_owned()),
        watch,
        environment,
    })
}

/// Reads a command or a list of them.
pub(super) fn read_commands(value: &Value<'_>) -> Vec<String> {
    if value.is_array() {
        value.strings()
    } else {
        value.string().map(str::to_owned).into_iter().collect()
    }
}
