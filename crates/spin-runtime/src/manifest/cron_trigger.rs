//! Reads `[[trigger.cron]]` of Spin's cron plugin: components and the times at which they are called.

use std::{collections::BTreeMap, time::SystemTime};

use super::{
    context::Context,
    model::{Component, CronTrigger, Target},
    reader::Value,
    trigger::{Names, read_target},
};
use crate::cron_schedule::CronSchedule;

/// Reads an entry and adds its inline component to `components`.
pub(super) fn read(
    context: &Context<'_>,
    entry: &Value<'_>,
    names: &mut Names,
    components: &mut BTreeMap<String, Component>,
) -> Option<CronTrigger> {
    let mut table = entry.table()?;
    let id = table.get("id").and_then(|value| value.string());
    let component = table.require("component", "the id of a component");
    let expression = table.require(
        "cron_expression",
        "the times of the calls, such as \"0 30 4 * * *\" for 4:30 UTC of every day",
    );
    table.finish();
    let name = component.as_ref().filter(|value| value.is_string());
    let name = name.and_then(|value| value.string());
    let trigger_id = names.trigger(id.unwrap_or_default(), name);
    let target =
        component.and_then(|value| read_target(context, &trigger_id, &value, names, components));
    let schedule = expression.and_then(|value| {
        let parsed = CronSchedule::parse(value.string()?);
        let schedule = parsed.map_err(|reason| value.error(reason)).ok()?;
        if schedule.next_after(SystemTime::now()).is_none() {
            value.warn(
                "this cron expression has no times in the future, so the component is never called",
            );
        }
        Some(schedule)
    });
    match target? {
        Target::Component(component) => Some(CronTrigger {
            component,
            schedule: schedule?,
        }),
        Target::Static { .. } => None,
    }
}
