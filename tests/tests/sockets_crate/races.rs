//! Clients that join, leave and send at the same time.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::{
    member::Member,
    place::{Kind, Place},
};

/// The number of messages.
const MESSAGES: usize = 150;

/// The number of clients that join while these are sent.
const JOINING: usize = 12;

#[tokio::test]
async fn clients_that_join_miss_nothing() -> Result<()> {
    for kind in Kind::WITH_HOST {
        let place = Place::start(kind).await?;
        let address = place.address;
        let senders = (0..3).map(|sender| {
            tokio::spawn(async move {
                let (mut member, _) = Member::join(address, "busy").await?;
                for number in 0..MESSAGES / 3 {
                    member.send(&format!("{sender}-{number}")).await?;
                    // Leaves room for others, so that joining and sending overlap.
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                receive_all(&mut member).await?;
                Ok::<_, anyhow::Error>(member)
            })
        });
        let senders: Vec<_> = senders.collect();
        let mut joining = Vec::new();
        for _ in 0..JOINING {
            tokio::time::sleep(Duration::from_millis(10)).await;
            joining.push(tokio::spawn(async move {
                let (mut member, _) = Member::join(address, "busy").await?;
                receive_all(&mut member).await?;
                Ok::<_, anyhow::Error>(member)
            }));
        }
        let mut members = Vec::new();
        for task in senders.into_iter().chain(joining) {
            members.push(task.await?.with_context(|| format!("{kind:?}"))?);
        }
        let (mut reader, _) = Member::join(address, "busy").await?;
        reader.wait_for_items(100).await?;
        for member in &members {
            // Each has all items after its first one, and the same as the others.
            ensure!(member.last == Some(MESSAGES as u64));
            let common = member.items.len().min(100);
            let (of_member, of_reader) = (
                &member.items[member.items.len() - common..],
                &reader.items[100 - common..],
            );
            ensure!(
                of_member == of_reader,
                "{kind:?}: {of_member:?} {of_reader:?}"
            );
        }
    }
    Ok(())
}

/// Receives until the last item.
async fn receive_all(member: &mut Member) -> Result<()> {
    let received = member.receive_until(|member| member.last == Some(MESSAGES as u64));
    received
        .await
        .with_context(|| format!("after item {:?}", member.last))
}

#[tokio::test]
async fn all_clients_see_the_last_count() -> Result<()> {
    for kind in Kind::WITH_HOST {
        let place = Place::start(kind).await?;
        let address = place.address;
        let join = |_| tokio::spawn(async move { Member::join(address, "crowd").await });
        let joining: Vec<_> = (0..20).map(join).collect();
        let mut members = Vec::new();
        for task in joining {
            members.push(task.await??.0);
        }
        for (number, member) in members.iter_mut().enumerate() {
            let waiting = member.wait_for_count(20).await;
            waiting.with_context(|| format!("{kind:?}, client {number}"))?;
        }
        let mut rest = members.split_off(10);
        drop(members);
        for member in &mut rest {
            member.wait_for_count(10).await?;
        }
    }
    Ok(())
}
