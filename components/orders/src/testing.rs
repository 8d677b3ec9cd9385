//! Test helpers.

use std::time::SystemTime;

use grip::{Item, Message, publish::WsAction};
use rand::{SeedableRng, rngs::SmallRng};
use sockets::testing::{block_on, reset, take_published};

use crate::{generator, order::Order, orders::Orders};

/// Returns the orders of an empty store, of which nothing was published.
pub(crate) fn empty_orders() -> Orders {
    reset();
    Orders::default()
}

/// Creates an order.
pub(crate) fn create(orders: &Orders) -> Order {
    let mut rng = SmallRng::seed_from_u64(1);
    block_on(orders.create(&mut rng, SystemTime::UNIX_EPOCH)).unwrap()
}

/// Returns an order that is not stored.
pub(crate) fn sample_order() -> Order {
    generator::random_order(&mut SmallRng::seed_from_u64(1), "then".into())
}

/// Returns the WebSocket messages that were published since the last call.
pub(crate) fn take_messages() -> Vec<String> {
    let items = take_published().into_iter();
    let formats = items.filter_map(|item: Item| item.ws_message);
    let texts = formats.map(|format| match format.action {
        WsAction::Send(Message::Text(text)) => text.to_string(),
        other => panic!("unexpected action: {other:?}"),
    });
    texts.collect()
}
