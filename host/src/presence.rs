//! Announces the members of channels, one after another: on the bus, where all hosts together decide who
//! is the first and the last, or on this host alone.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};
use tracing::warn;

use crate::{
    bus::Bus,
    pubsub::{channels::Channels, publication::Publication},
    state::members::{Change, Member, Members},
};

/// The pause before an announcement is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Announces joins and leaves. Runs until it is dropped.
pub(crate) async fn run(members: Members, channels: Channels, bus: Option<Arc<Bus>>) {
    let Some(bus) = bus else {
        loop {
            announce_here(&channels, &members.changed().await).await;
        }
    };
    // By the time when they are tried again.
    let mut failed = VecDeque::<(Instant, Change)>::new();
    loop {
        let change = match failed.front() {
            None => members.changed().await,
            Some((due, _)) => tokio::select! {
                () = sleep_until(*due) => match failed.pop_front() {
                    Some((_, change)) if is_current(&members, &change) => change,
                    _ => continue,
                },
                change = members.changed() => change,
            },
        };
        if let Err(error) = bus.announce(&change).await {
            let Member { channel, id, .. } = change.member();
            warn!(channel = &**channel, member = &**id, %error, "presence not announced, trying again");
            failed.push_back((Instant::now() + RETRY_PAUSE, change));
        }
    }
}

/// Returns whether a change has not been undone since.
fn is_current(members: &Members, change: &Change) -> bool {
    let Member { channel, id, .. } = change.member();
    members.contains(channel, id) == matches!(change, Change::Joined { .. })
}

async fn announce_here(channels: &Channels, change: &Change) {
    let Some(item) = change.item() else {
        return;
    };
    match Publication::new(item) {
        Ok(publication) => {
            channels.publish(publication).await;
        }
        Err(error) => warn!(%error, "presence not published"),
    }
}
