//! Conformance suite for two GRIP proxies: each case runs against Debian's Pushpin, against
//! socket-host, and against socket-host with a bus, all in front of the same scripted backend.
//!
//! Where the first two differ on purpose, the case checks both behaviours, and `docs/grip.md` has a row
//! with the case's name; `differences::documented` compares the two lists.
//! `differences::WITH_BUS` lists what differs with a bus.
//!
//! The program is its own
//! test harness because the trials share the proxies, which must be stopped after the last trial:
//! statics are never dropped.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Result;
use libtest_mimic::{Arguments, Trial};

use self::{
    backend::Backend,
    case::{Case, Entry},
    proxy::{Kind, Proxies},
};

mod backend;
mod case;
mod client;
mod differences;
mod proxy;
mod pushpin;

mod burger;
mod close;
mod control;
mod events;
mod filters;
mod keep_alive;
mod link;
mod meta;
mod open;
mod order;
mod plain;
mod publish;
mod replay;
mod response;
mod signature;
mod stream;
mod unreachable;

/// The cases, by file.
const CASES: &[(&str, &[Entry])] = &[
    ("burger", burger::CASES),
    ("close", close::CASES),
    ("control", control::CASES),
    ("events", events::CASES),
    ("filters", filters::CASES),
    ("keep_alive", keep_alive::CASES),
    ("link", link::CASES),
    ("meta", meta::CASES),
    ("open", open::CASES),
    ("order", order::CASES),
    ("plain", plain::CASES),
    ("publish", publish::CASES),
    ("replay", replay::CASES),
    ("response", response::CASES),
    ("signature", signature::CASES),
    ("stream", stream::CASES),
    ("unreachable", unreachable::CASES),
];

/// The number of concurrent trials. They mostly wait, so that the slow ones should run together.
const CONCURRENCY: usize = 64;

/// The number of attempts with Pushpin, whose processes occasionally lose a message under load. It
/// is enough that Pushpin passes once. socket-host, which is under test, has one attempt.
const PUSHPIN_ATTEMPTS: usize = 3;

/// The pause between two attempts, for the load to decrease.
const RETRY_DELAY: Duration = Duration::from_secs(1);

fn main() -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(CONCURRENCY);
    let runtime = tokio::runtime::Runtime::new()?;
    let backend = Arc::new(runtime.block_on(Backend::start())?);
    let proxies = Arc::new(Proxies::new(backend.address()));

    let mut trials = vec![Trial::test("differences::documented", || {
        Ok(differences::documented()?)
    })];
    for kind in Kind::ALL {
        for (module, cases) in CASES {
            for entry in *cases {
                let name = format!("{kind}::{module}::{}", entry.name);
                let differs_with_bus = differences::with_bus(module, entry.name);
                let (proxies, backend) = (proxies.clone(), backend.clone());
                let handle = runtime.handle().clone();
                trials.push(Trial::test(name.clone(), move || {
                    let run = async |name: &str| {
                        let mut case = Case::new(name, kind, entry, proxies.clone(), &backend);
                        case.differs_with_bus = differs_with_bus;
                        case.run(entry).await
                    };
                    let attempts = match kind {
                        Kind::Pushpin => PUSHPIN_ATTEMPTS,
                        Kind::SocketHost | Kind::SocketHostWithBus => 1,
                    };
                    Ok(handle.block_on(async {
                        for attempt in 1..attempts {
                            match run(&format!("{name}-{attempt}")).await {
                                Ok(()) => return Ok(()),
                                Err(error) => eprintln!("{name}, attempt {attempt}: {error:#}"),
                            }
                            tokio::time::sleep(RETRY_DELAY).await;
                        }
                        run(&name).await
                    })?)
                }));
            }
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Stops the proxies: the trials, which shared them, are done.
    drop(proxies);
    Ok(conclusion.exit_code())
}
