//! The table in `docs/grip.md` has a row for each case that tells a difference, and no other.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use crate::CASES;

/// The heading over the table.
const HEADING: &str = "## Differences from Pushpin";

/// Compares the table with the cases. A row begins with the case's name, in backticks.
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
    let told: BTreeSet<String> = CASES
        .iter()
        .flat_map(|(module, cases)| cases.iter().map(move |case| (module, case)))
        .filter(|(_, case)| case.differs)
        .map(|(module, case)| format!("{module}::{}", case.name))
        .collect();
    ensure!(
        documented == told,
        "{}: rows without a case: {:?}; cases without a row: {:?}",
        path.display(),
        documented.difference(&told).collect::<Vec<_>>(),
        told.difference(&documented).collect::<Vec<_>>()
    );
    Ok(())
}
