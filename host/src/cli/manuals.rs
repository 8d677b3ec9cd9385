//! The commands that print completions for shells, and manual pages.

use std::{
    io::{Write as _, stdout},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

/// The options of `socket-host completions`.
#[derive(Args)]
pub(super) struct Completions {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// The options of `socket-host man`.
#[derive(Args)]
pub(super) struct Manual {
    /// Write a page for each command into this folder, instead of printing the main page.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

impl Completions {
    /// Prints the completions of the command line.
    pub(super) fn run(&self, mut command: Command) {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "socket-host", &mut script);
        // A reader may end early.
        let _ = stdout().write_all(&script);
    }
}

impl Manual {
    /// Prints or writes the manual of the command line.
    ///
    /// # Errors
    /// Fails if the folder cannot be written to.
    pub(super) fn run(&self, command: Command) -> Result<()> {
        match &self.dir {
            Some(folder) => {
                std::fs::create_dir_all(folder)
                    .and_then(|()| clap_mangen::generate_to(command, folder))
                    .with_context(|| format!("--dir {}", folder.display()))?;
            }
            None => {
                let mut page = Vec::new();
                Man::new(command).render(&mut page)?;
                let _ = stdout().write_all(&page);
            }
        }
        Ok(())
    }
}
