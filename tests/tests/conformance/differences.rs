//! Checks that the table in `docs/grip.md` has exactly one row for each case under `differs:`.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use crate::CASES;

/// The heading above the table.
const HEADING: &str = "## Differences from Pushpin";

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
