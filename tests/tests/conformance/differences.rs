//! What differs between the proxies. The table in `docs/grip.md` has exactly one row for each case under
//! `differs:`.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use crate::CASES;

/// The heading above the table.
const HEADING: &str = "## Differences from Pushpin";

/// The cases that differ with a bus, and why.
const WITH_BUS: &[(&str, &str)] = &[
    (
        "control::recover_without_a_history",
        "the bus keeps the last items of every channel",
    ),
    (
        "link::prev_id_differs",
        "a stream continues with the last items, so nothing is fetched",
    ),
    (
        "order::out_of_order",
        "the order is that of the bus, and `prev-id` does not delay an item",
    ),
];

/// Returns whether a case differs with a bus.
pub fn with_bus(module: &str, case: &str) -> bool {
    let name = format!("{module}::{case}");
    WITH_BUS.iter().any(|(listed, _)| *listed == name)
}

/// Compares the table with the cases. A row starts with the case's name in backticks.
pub fn documented() -> Result<()> {
    let path = tests::workspace().join("docs/grip.md");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let (_, section) = text
        .split_once(HEADING)
        .with_context(|| format!("{} has no {HEADING:?}", path.display()))?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let documented: BTreeSet<String> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .map(str::to_owned)
        .collect();
    let listed: BTreeSet<String> = CASES
        .iter()
        .flat_map(|(module, cases)| cases.iter().map(move |case| (module, case)))
        .filter(|(_, case)| case.differs)
        .map(|(module, case)| format!("{module}::{}", case.name))
        .collect();
    ensure!(
        documented == listed,
        "{}: rows without a case: {:?}; cases without a row: {:?}",
        path.display(),
        documented.difference(&listed).collect::<Vec<_>>(),
        listed.difference(&documented).collect::<Vec<_>>()
    );
    Ok(())
}
