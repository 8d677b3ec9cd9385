//! The examples in the documentation, which tests use as they are.

use anyhow::{Context as _, Result};

use crate::workspace;

/// Returns the first block of code in `docs/PAGE` that is in this language and contains this text.
pub fn code_block(page: &str, language: &str, text: &str) -> Result<String> {
    let path = workspace().join("docs").join(page);
    let content = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let start = format!("```{language}");
    let mut lines = content.lines();
    while let Some(line) = lines.next() {
        if line.trim_start() != start {
            continue;
        }
        // A block in a list is indented.
        let indent = line.len() - start.len();
        let block = lines.by_ref().take_while(|line| line.trim_start() != "```");
        let block = block.map(|line| line.get(indent..).unwrap_or_default());
        let block = block.collect::<Vec<_>>().join("\n");
        if block.contains(text) {
            return Ok(block);
        }
    }
    anyhow::bail!("{page} has no {language} with {text:?}")
}
