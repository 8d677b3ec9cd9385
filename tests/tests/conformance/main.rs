//! One suite for two GRIP proxies: each case runs against Debian's Pushpin and against
//! socket-host, both in front of the same scripted backend.
//!
//! Where the two differ on purpose, the case says what each of them does, and
//! `docs/grip.md` has a row with the case's name; `differences::documented` compares the
//! two lists. The program is its own harness because the proxies live for all trials and
//! must be gone after the last one: statics are never dropped.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Result;
use libtest_mimic::{Arguments, Trial};

use self::{
    backend::Backend,
    case::{Case, Registered},
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

/// The cases, by the file that has them.
const CASES: &[(&str, &[Registered])] = &[
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

/// Trials wait much more than they compute: the slow ones wait all at the same time.
const AT_ONCE: usize = 64;

/// Pushpin's processes lose a message between them now and then where much happens at once. What
/// is tested is socket-host, which has one try; that Pushpin does what a case says must be seen
/// once.
const PUSHPIN_TRIES: usize = 3;

/// Between two tries, since whatever lost the message may not be over.
const PAUSE: Duration = Duration::from_secs(1);

fn main() -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    let runtime = tokio::runtime::Runtime::new()?;
    let backend = Arc::new(runtime.block_on(Backend::start())?);
    let proxies = Arc::new(Proxies::new(backend.address()));

    let mut trials = vec![Trial::test("differences::documented", || {
        Ok(differences::documented()?)
    })];
    for kind in [Kind::Pushpin, Kind::SocketHost] {
        for (module, cases) in CASES {
            for registered in *cases {
                let name = format!("{kind}::{module}::{}", registered.name);
                let (proxies, backend) = (proxies.clone(), backend.clone());
                let handle = runtime.handle().clone();
                trials.push(Trial::test(name.clone(), move || {
                    let run = async |name: &str| {
                        let case = Case::new(name, kind, registered, proxies.clone(), &backend);
                        case.run(registered).await
                    };
                    let tries = match kind {
                        Kind::Pushpin => PUSHPIN_TRIES,
                        Kind::SocketHost => 1,
                    };
                    Ok(handle.block_on(async {
                        for again in 1..tries {
                            match run(&format!("{name}-{again}")).await {
                                Ok(()) => return Ok(()),
                                Err(error) => eprintln!("{name}, try {again}: {error:#}"),
                            }
                            tokio::time::sleep(PAUSE).await;
                        }
                        run(&name).await
                    })?)
                }));
            }
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Those that were started: the trials, which shared them, are gone.
    drop(proxies);
    Ok(conclusion.exit_code())
}
