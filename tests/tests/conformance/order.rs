//! `id` and `prev-id`: order and deduplication of a channel's items.

use anyhow::Result;
use serde_json::{Value, json};

use crate::case::{Case, cases, stream_text, ws_text};

cases! {
    in_order
    out_of_order
    duplicate
    missing
    only_ids
    no_seq
}

fn item(case: &Case, id: &str, previous: Option<&str>) -> Value {
    let mut item = ws_text(case.channel(), id);
    item["id"] = id.into();
    if let Some(previous) = previous {
        item["prev-id"] = previous.into();
    }
    item
}

async fn in_order(case: &Case) -> Result<()> {
    let mut socket = case.subscribe().await?;
    case.publish(item(case, "1", None)).await?;
    case.publish(item(case, "2", Some("1"))).await?;
    case.publish(item(case, "3", Some("2"))).await?;
    for id in ["1", "2", "3"] {
        socket.expect(id).await?;
    }
    Ok(())
}

async fn out_of_order(case: &Case) -> Result<()> {
    let mut socket = case.subscribe().await?;
    case.publish(item(case, "1", None)).await?;
    case.publish(item(case, "3", Some("2"))).await?;
    case.publish(item(case, "2", Some("1"))).await?;
    for id in case.differ_with_bus(["1", "2", "3"], ["1", "3", "2"]) {
        socket.expect(id).await?;
    }
    Ok(())
}

async fn duplicate(case: &Case) -> Result<()> {
    let mut socket = case.subscribe().await?;
    case.publish(item(case, "1", None)).await?;
    case.publish(item(case, "2", Some("1"))).await?;
    case.publish(item(case, "2", Some("1"))).await?;
    case.publish(item(case, "3", Some("2"))).await?;
    for id in ["1", "2", "3"] {
        socket.expect(id).await?;
    }
    case.barrier(&mut socket, "nothing else").await
}

/// Later items are not delayed for ever by a missing one.
async fn missing(case: &Case) -> Result<()> {
    let mut socket = case.subscribe().await?;
    case.publish(item(case, "1", None)).await?;
    case.publish(item(case, "3", Some("2"))).await?;
    case.publish(item(case, "4", Some("3"))).await?;
    for id in ["1", "3", "4"] {
        socket.expect(id).await?;
    }
    Ok(())
}

async fn only_ids(case: &Case) -> Result<()> {
    let mut socket = case.subscribe().await?;
    for id in ["b", "a", "c"] {
        case.publish(item(case, id, None)).await?;
    }
    for id in ["b", "a", "c"] {
        socket.expect(id).await?;
    }
    Ok(())
}

async fn no_seq(case: &Case) -> Result<()> {
    let mut socket = case.subscribe().await?;
    case.publish(item(case, "1", None)).await?;
    let mut early = item(case, "3", Some("2"));
    early["no-seq"] = json!(true);
    case.publish(early).await?;
    case.publish(stream_text(case.channel(), "other form"))
        .await?;
    socket.expect("1").await?;
    socket.expect("3").await
}
