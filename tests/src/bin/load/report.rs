//! Figures and their output as a table or as JSON.

use std::borrow::Cow;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::stats::Spread;

/// A measured value.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What was measured.
    pub name: Cow<'static, str>,
    /// The unit.
    pub unit: &'static str,
    /// The value.
    pub value: f64,
}

impl Figure {
    /// Creates a figure.
    pub fn new(name: impl Into<Cow<'static, str>>, unit: &'static str, value: f64) -> Self {
        Self {
            name: name.into(),
            unit,
            value,
        }
    }

    /// Creates a figure in milliseconds from nanoseconds.
    pub fn milliseconds(name: impl Into<Cow<'static, str>>, nanoseconds: u64) -> Self {
        Self::new(name, "ms", nanoseconds as f64 / 1e6)
    }
}

/// The figures of one or several targets, in the order in which they were added.
#[derive(Debug, Default)]
pub struct Report {
    targets: Vec<String>,
    rows: Vec<Row>,
    failures: Vec<String>,
    /// Whether ratios are those of the other targets to the first one, and not the reverse.
    pub relative_to_first: bool,
}

#[derive(Debug)]
struct Row {
    name: String,
    unit: &'static str,
    /// By target: one value per run.
    values: Vec<Vec<f64>>,
}

impl Report {
    /// Adds the figures of a run, with `prefix` before their names.
    pub fn add(&mut self, target: &str, prefix: &str, figures: Vec<Figure>) {
        let column = self
            .targets
            .iter()
            .position(|name| name == target)
            .unwrap_or_else(|| {
                self.targets.push(target.to_string());
                self.targets.len() - 1
            });
        for figure in figures {
            let name = format!("{prefix}{}", figure.name);
            let row = self
                .rows
                .iter()
                .position(|row| row.name == name)
                .unwrap_or_else(|| {
                    self.rows.push(Row {
                        name,
                        unit: figure.unit,
                        values: Vec::new(),
                    });
                    self.rows.len() - 1
                });
            let values = &mut self.rows[row].values;
            values.resize_with(values.len().max(column + 1), Vec::new);
            values[column].push(figure.value);
        }
    }

    /// Adds a failed measurement.
    pub fn fail(&mut self, failure: String) {
        self.failures.push(failure);
    }

    /// Formats the table, one line per figure.
    ///
    /// A cell has one value, or the median, minimum and maximum of several runs. With several
    /// targets, the last columns are the ratios of the first target's median to the others', or the
    /// reverse with `relative_to_first`.
    pub fn table(&self) -> String {
        let mut lines = vec![vec!["figure".to_string(), "unit".to_string()]];
        for target in &self.targets {
            lines[0].push(target.clone());
        }
        for other in self.targets.iter().skip(1) {
            let first = &self.targets[0];
            lines[0].push(if self.relative_to_first {
                format!("{other} / {first}")
            } else {
                format!("{first} / {other}")
            });
        }
        for row in &self.rows {
            let mut line = vec![row.name.clone(), row.unit.to_string()];
            for column in 0..self.targets.len() {
                line.push(
                    row.values
                        .get(column)
                        .map_or_else(|| "-".to_string(), |values| cell(values)),
                );
            }
            let median = |column: usize| Some(Spread::of(row.values.get(column)?)?.median);
            for column in 1..self.targets.len() {
                let (over, under) = if self.relative_to_first {
                    (median(column), median(0))
                } else {
                    (median(0), median(column))
                };
                line.push(match (over, under) {
                    (Some(over), Some(under)) if under != 0.0 => format!("{:.2}", over / under),
                    _ => "-".to_string(),
                });
            }
            lines.push(line);
        }
        let columns = lines[0].len();
        let widths: Vec<usize> = (0..columns)
            .map(|at| {
                lines
                    .iter()
                    .map(|line| line[at].chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let mut table = String::new();
        for line in &lines {
            let mut text = String::new();
            for (at, cell) in line.iter().enumerate() {
                // Writing to a string cannot fail.
                let _ = match at {
                    0 | 1 => write!(text, "{cell:<width$}  ", width = widths[at]),
                    _ => write!(text, "{cell:>width$}  ", width = widths[at]),
                };
            }
            table.push_str(text.trim_end());
            table.push('\n');
        }
        table
    }

    /// Returns one object per figure and target, with the values of all runs.
    pub fn json(&self) -> Value {
        let figures = self.rows.iter().flat_map(|row| {
            self.targets
                .iter()
                .zip(&row.values)
                .filter_map(|(target, values)| {
                    let Spread { min, median, max } = Spread::of(values)?;
                    Some(json!({
                        "target": target, "figure": row.name, "unit": row.unit,
                        "runs": values, "min": min, "median": median, "max": max,
                    }))
                })
        });
        Value::Array(figures.collect())
    }

    /// Returns the failed measurements, and the figures that count lost or misordered messages: they
    /// make the other figures of their run worthless.
    pub fn faults(&self) -> Vec<String> {
        let faulty = |row: &&Row| row.name.ends_with("lost") || row.name.ends_with("out of order");
        let rows = self.rows.iter().filter(faulty);
        let lost = rows.flat_map(|row| {
            self.targets
                .iter()
                .zip(&row.values)
                .filter_map(|(target, values)| {
                    let worst = values.iter().copied().fold(0.0, f64::max);
                    (worst > 0.0).then(|| format!("{target}: {}: {worst}", row.name))
                })
        });
        self.failures.iter().cloned().chain(lost).collect()
    }
}

fn cell(values: &[f64]) -> String {
    match Spread::of(values) {
        None => "-".to_string(),
        Some(Spread { median, .. }) if values.len() == 1 => number(median),
        Some(Spread { min, median, max }) => {
            format!("{} [{}..{}]", number(median), number(min), number(max))
        }
    }
}

/// Formats a number with at least three significant digits and thousands separators.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        0.0 => 0,
        below if below < 10.0 => 2,
        below if below < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    let (integer, fraction) = text
        .split_once('.')
        .map_or((text.as_str(), ""), |(integer, fraction)| {
            (integer, fraction)
        });
    let mut grouped = String::new();
    for (at, digit) in integer.chars().enumerate() {
        if at > 0 && (integer.len() - at) % 3 == 0 && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if fraction.is_empty() {
        grouped
    } else {
        format!("{grouped}.{fraction}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_thousands_separators() {
        let texts = [
            0.0, 1.234, 12.34, 123.4, 76543.2, 1234567.0, -1234.0, -123.0,
        ]
        .map(number);
        assert_eq!(
            texts,
            [
                "0",
                "1.23",
                "12.3",
                "123",
                "76,543",
                "1,234,567",
                "-1,234",
                "-123"
            ]
        );
    }

    #[test]
    fn table_has_all_runs_and_targets() {
        let mut report = Report::default();
        report.add(
            "a",
            "",
            vec![
                Figure::new("opens", "/s", 10.0),
                Figure::new("lost", "", 0.0),
            ],
        );
        report.add("b", "", vec![Figure::new("opens", "/s", 5.0)]);
        report.add(
            "a",
            "",
            vec![
                Figure::new("opens", "/s", 30.0),
                Figure::new("lost", "", 2.0),
            ],
        );
        let table = report.table();
        let lines: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[0], ["figure", "unit", "a", "b", "a", "/", "b"]);
        assert_eq!(
            lines[1],
            ["opens", "/s", "20.0", "[10.0..30.0]", "5.00", "4.00"]
        );
        assert_eq!(report.faults(), ["a: lost: 2"]);
        report.relative_to_first = true;
        let table = report.table();
        let mut lines = table.lines();
        assert!(lines.next().unwrap().ends_with("b / a"));
        assert!(lines.next().unwrap().ends_with(" 0.25"));
        let json = report.json();
        assert_eq!(json.as_array().unwrap().len(), 3);
        assert_eq!(json[0]["runs"], json!([10.0, 30.0]));
        assert_eq!(json[1]["target"], "b");
    }
}
