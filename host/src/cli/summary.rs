//! The printed summary of an application: its routes and timers.

use spin_runtime::manifest::{Manifest, Route, Target};

use crate::{
    config::{AppConfig, Timer, UpstreamUrl},
    terminal::print_line,
};

/// Prints the routes and timers of an application.
pub(super) fn print(config: &AppConfig, url: &str, upstream: Option<&UpstreamUrl>) {
    let (manifest, host) = (&config.manifest, &config.host);
    for warning in &manifest.warnings {
        tracing::warn!(%warning, "manifest warning");
    }
    print_line("Routes:");
    match upstream {
        Some(upstream) => {
            print_line(format_args!("  {url}/... → {upstream}"));
            for route in &host.private {
                print_line(format_args!("  {url}{route} (private)"));
            }
        }
        None => print_triggers(manifest, &host.private, url),
    }
    for passthrough in &host.passthroughs {
        let route = &passthrough.route;
        match &passthrough.upstream {
            Some(upstream) => print_line(format_args!("  {url}{route} → {upstream} (passthrough)")),
            None => print_line(format_args!("  {url}{route} (passthrough)")),
        }
    }
    let timers = config.timers();
    if !timers.is_empty() {
        print_line("Timers:");
    }
    for Timer { target, schedule } in &timers {
        print_line(format_args!("  {target} {schedule}"));
    }
}

fn print_triggers(manifest: &Manifest, private: &[String], url: &str) {
    for trigger in &manifest.triggers {
        let target = match &trigger.target {
            Target::Component(component) => component.clone(),
            Target::Static { status, .. } => format!("static response {status}"),
        };
        match &trigger.route {
            Route::Path(path) => {
                // The leading slash is optional in a manifest.
                let slash = if path.starts_with('/') { "" } else { "/" };
                let note = if private.contains(path) {
                    " (private)"
                } else {
                    ""
                };
                print_line(format_args!("  {url}{slash}{path} → {target}{note}"));
            }
            Route::Private => print_line(format_args!("  (service chaining only) → {target}")),
        }
    }
}
