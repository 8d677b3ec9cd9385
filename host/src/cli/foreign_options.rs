//! Options of `spin up` that this host does not have.

use std::ffi::OsString;

use anyhow::{Result, bail};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};
use tracing::warn;

/// An option of `spin up`.
struct ForeignOption {
    name: &'static str,
    alias: Option<&'static str>,
    short: Option<char>,
    /// The name of its value, or `None` for a flag.
    value: Option<&'static str>,
    support: Support,
}

/// What the host does with an option.
enum Support {
    /// It is passed on to Spin with `--spin`. Otherwise it has no effect, for this reason.
    Unneeded(&'static str),
    /// It is passed on to Spin with `--spin`. Otherwise it is an error, for this reason.
    SpinOnly(&'static str),
    /// It is an error, also with `--spin`. The text names an alternative.
    Never(&'static str),
}

const FLAG: ForeignOption = ForeignOption {
    name: "",
    alias: None,
    short: None,
    value: None,
    support: Support::Unneeded(""),
};

static OPTIONS: [ForeignOption; 12] = [
    ForeignOption {
        name: "temp",
        alias: Some("tmp"),
        value: Some("FOLDER"),
        support: Support::Unneeded("the files of components are not copied"),
        ..FLAG
    },
    ForeignOption {
        name: "direct-mounts",
        support: Support::Unneeded("folders are always mounted directly"),
        ..FLAG
    },
    ForeignOption {
        name: "insecure",
        short: Some('k'),
        support: Support::Unneeded("there is no registry"),
        ..FLAG
    },
    ForeignOption {
        name: "debug-info",
        support: Support::Unneeded("components are compiled without it"),
        ..FLAG
    },
    ForeignOption {
        name: "http1-max-buf-size",
        value: Some("BYTES"),
        support: Support::Unneeded("the size of a request's head is fixed"),
        ..FLAG
    },
    ForeignOption {
        name: "cache",
        value: Some("FILE"),
        support: Support::Unneeded("the cache of compiled code is not configured"),
        ..FLAG
    },
    ForeignOption {
        name: "allow-transient-write",
        support: Support::SpinOnly("the files of components are read-only"),
        ..FLAG
    },
    ForeignOption {
        name: "component-id",
        short: Some('c'),
        value: Some("ID"),
        support: Support::SpinOnly("all components are served"),
        ..FLAG
    },
    ForeignOption {
        name: "experimental-wasi-otel",
        support: Support::SpinOnly("components cannot send telemetry with wasi:otel"),
        ..FLAG
    },
    ForeignOption {
        name: "from-registry",
        value: Some("REFERENCE"),
        support: Support::Never(
            "run `spin up --from-registry` and put this host in front of it with --upstream",
        ),
        ..FLAG
    },
    ForeignOption {
        name: "find-free-port",
        support: Support::Never("let the system choose a port with --listen 127.0.0.1:0"),
        ..FLAG
    },
    ForeignOption {
        name: "format",
        value: Some("FORMAT"),
        support: Support::Never("read the address from the line that starts with `Serving`"),
        ..FLAG
    },
];

/// The options of `spin up` on the command line, with their values.
pub(super) struct ForeignOptions(Vec<(&'static ForeignOption, Vec<OsString>)>);

impl ForeignOptions {
    /// Returns the arguments that are passed on to Spin, with `--spin`. Logs the options that have
    /// no effect.
    ///
    /// # Errors
    /// Fails for an option whose effect the application or its users would miss.
    pub(super) fn spin_arguments(&self, with_spin: bool) -> Result<Vec<OsString>> {
        let mut arguments = Vec::new();
        for (option, values) in &self.0 {
            let name = format!("--{}", option.name);
            match option.support {
                Support::Never(alternative) => bail!("{name} is not supported: {alternative}"),
                _ if with_spin && values.is_empty() => arguments.push(name.into()),
                _ if with_spin => {
                    for value in values {
                        arguments.extend([name.clone().into(), value.clone()]);
                    }
                }
                Support::SpinOnly(reason) => bail!(
                    "{name} is not supported: {reason}; serve the application with --spin, or with \
                     `spin up {name}` and --upstream"
                ),
                Support::Unneeded(reason) => {
                    warn!(option = %name, reason, "option has no effect");
                }
            }
        }
        Ok(arguments)
    }
}

impl Args for ForeignOptions {
    fn augment_args(command: Command) -> Command {
        command.args(OPTIONS.iter().map(ForeignOption::argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ForeignOptions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = OPTIONS
            .iter()
            .filter_map(|option| Some((option, option.values(matches)?)));
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl ForeignOption {
    fn argument(&self) -> Arg {
        let argument = Arg::new(self.name)
            .long(self.name)
            .alias(self.alias)
            .short(self.short)
            .hide(true);
        match self.value {
            Some(name) => argument
                .value_name(name)
                .value_parser(value_parser!(OsString))
                .action(ArgAction::Append),
            None => argument.action(ArgAction::SetTrue),
        }
    }

    /// Returns the values on the command line, or an empty list for a flag. Returns `None` if the
    /// option is absent.
    fn values(&self, matches: &ArgMatches) -> Option<Vec<OsString>> {
        if self.value.is_some() {
            let values = matches.get_many::<OsString>(self.name)?;
            Some(values.cloned().collect())
        } else {
            matches.get_flag(self.name).then(Vec::new)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the arguments for Spin, or the error, as one line.
    fn spin_arguments(line: &str, with_spin: bool) -> String {
        let command = ForeignOptions::augment_args(Command::new("up"));
        let matches = command
            .try_get_matches_from(["up"].into_iter().chain(line.split_whitespace()))
            .unwrap();
        let options = ForeignOptions::from_arg_matches(&matches).unwrap();
        match options.spin_arguments(with_spin) {
            Ok(arguments) => arguments.join(" ".as_ref()).into_string().unwrap(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn options_are_passed_on_to_spin() {
        for line in ["--temp a", "--tmp a", "-k", "--cache a", "--debug-info"] {
            assert_eq!(spin_arguments(line, false), "", "{line}");
        }
        assert_eq!(spin_arguments("", true), "");
        assert_eq!(
            spin_arguments(
                "-c a --tmp b --component-id=c -k --http1-max-buf-size 9000 \
                 --allow-transient-write --debug-info --direct-mounts",
                true
            ),
            "--temp b --direct-mounts --insecure --debug-info --http1-max-buf-size 9000 \
             --allow-transient-write --component-id a --component-id c"
        );
    }

    #[test]
    fn errors_name_the_way_out() {
        for (line, expected) in [
            ("--allow-transient-write", "--spin"),
            ("-c a", "`spin up --component-id` and --upstream"),
            ("--experimental-wasi-otel", "--spin"),
        ] {
            let error = spin_arguments(line, false);
            assert!(error.contains("is not supported"), "{line}: {error}");
            assert!(error.contains(expected), "{line}: {error}");
        }
        for (line, expected) in [
            ("--from-registry a", "--upstream"),
            ("--find-free-port", "--listen 127.0.0.1:0"),
            ("--format json", "Serving"),
        ] {
            for with_spin in [false, true] {
                let error = spin_arguments(line, with_spin);
                assert!(error.contains("is not supported"), "{line}: {error}");
                assert!(error.contains(expected), "{line}: {error}");
            }
        }
    }
}
