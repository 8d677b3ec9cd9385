//! Tests of the stream's parts, and of the whole stream with a simulated GRIP host and browsers.
//!
//! In the simulation, published items may be lost, late or out of order.

use std::collections::BTreeMap;

use grip::{Item, publish::StreamAction};
use http_body_util::BodyExt;
use proptest::prelude::*;
use serde_json::Value;
use sockets::testing::{block_on, take_published};

use super::*;
use crate::{generator, orders::Orders, testing};

/// A response, as parsed by the host.
struct TestResponse {
    instruct: Option<Instruct>,
    headers: HeaderMap,
    body: String,
}

impl TestResponse {
    /// Returns the names of the events and the ids of their orders.
    fn event_ids(&self) -> Vec<(String, u64)> {
        let events = parse_events(&self.body);
        events
            .into_iter()
            .map(|event| (event.name, event.order.id))
            .collect()
    }

    /// Returns the link to the next part.
    fn next(&self) -> &str {
        &self.instruct.as_ref().unwrap().next.as_ref().unwrap().uri
    }
}

fn get(orders: &Orders, query: &str, last_event_id: Option<u64>, hold: bool) -> TestResponse {
    let header = last_event_id.map(|id| ("last-event-id", id.to_string()));
    get_with(orders, query, header, hold)
}

fn get_with(
    orders: &Orders,
    query: &str,
    header: Option<(&'static str, String)>,
    hold: bool,
) -> TestResponse {
    let header = header.map(|(name, value)| {
        let value = HeaderValue::try_from(value);
        (HeaderName::from_static(name), value.unwrap())
    });
    let headers = HeaderMap::from_iter(header);
    let position = parse_position(query, &headers).unwrap();
    let response = block_on(respond(&orders.history, position, hold)).unwrap();
    assert_eq!(response.status(), 200);
    let (head, body) = response.into_parts();
    let body = block_on(body.collect()).unwrap().to_bytes();
    let pairs = head.headers.iter();
    let pairs = pairs.map(|(name, value)| (name.as_str(), value.as_bytes()));
    TestResponse {
        instruct: Instruct::from_headers(pairs).unwrap(),
        headers: head.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

struct Event {
    id: Option<u64>,
    name: String,
    order: Order,
}

/// Parses a stream as browsers do. Comments and `retry` do not make an event.
fn parse_events(stream: &str) -> Vec<Event> {
    let Some(stream) = stream.strip_suffix("\n\n") else {
        assert_eq!(stream, "", "incomplete event");
        return Vec::new();
    };
    let events = stream.split("\n\n").filter_map(|event| {
        let field = |name: &str| {
            let fields = event.lines().filter_map(|line| line.split_once(": "));
            let mut values = fields.filter(|field| field.0 == name).map(|field| field.1);
            let value = values.next();
            assert!(values.next().is_none(), "{event}");
            value
        };
        let mut data: Value = serde_json::from_str(field("data")?).unwrap();
        let name = field("event").unwrap();
        assert_eq!(data["event"], name);
        Some(Event {
            id: field("id").map(|id| id.parse().unwrap()),
            name: name.into(),
            order: serde_json::from_value(data["detail"]["order"].take()).unwrap(),
        })
    });
    events.collect()
}

fn received_events(ids: impl IntoIterator<Item = u64>) -> Vec<(String, u64)> {
    ids.into_iter()
        .map(|id| ("order-received".into(), id))
        .collect()
}

fn create_orders(orders: &Orders, count: usize) {
    for _ in 0..count {
        testing::create(orders);
    }
}

fn orders_with(count: usize) -> Orders {
    let orders = testing::empty_orders();
    create_orders(&orders, count);
    orders
}

#[test]
fn the_response_is_held_after_its_last_order() {
    let orders = testing::empty_orders();
    let empty = get(&orders, "", None, true);
    assert_eq!(empty.body, "");
    assert_eq!(empty.headers["content-type"], "text/event-stream");
    assert_eq!(empty.headers["cache-control"], "no-store");
    assert_eq!(empty.headers["x-accel-buffering"], "no");
    let expected = |last: u64| {
        let received = hold::Channel::new("orders-received").after(last.to_string());
        Instruct::stream([received, hold::Channel::new("orders")])
            .with_keep_alive(":\n\n", 20)
            .with_next(format!("/api/orders/stream?after={last}"), 120)
    };
    assert_eq!(empty.instruct, Some(expected(99)));
    create_orders(&orders, 20);
    let latest = get(&orders, "", None, true);
    assert_eq!(latest.event_ids(), received_events(108..=119));
    assert_eq!(latest.instruct, Some(expected(119)));
    for (after, ids) in [
        (118, 119..=119),
        (107, 108..=119),
        (100, 101..=119),
        (0, 100..=119),
    ] {
        let part = get(&orders, &format!("after={after}"), None, true);
        assert_eq!(part.event_ids(), received_events(ids), "after {after}");
        assert_eq!(part.instruct, Some(expected(119)), "after {after}");
    }
    let nothing = get(&orders, "after=119", None, true);
    assert_eq!(
        (&*nothing.body, nothing.instruct),
        ("", Some(expected(119)))
    );
    // An unknown id: the browser has it from another store.
    let other = get(&orders, "after=120", None, true);
    assert_eq!(other.event_ids(), received_events(108..=119));
    assert_eq!(other.instruct, Some(expected(119)));
}

#[test]
fn the_highest_id_of_query_and_headers_counts() {
    let orders = orders_with(5);
    let ids = |query, header| get(&orders, query, header, true).event_ids();
    assert_eq!(ids("after=102", Some(103)), received_events([104]));
    assert_eq!(ids("after=103", Some(102)), received_events([104]));
    assert_eq!(ids("x=1&after=102", None), received_events([103, 104]));
    assert_eq!(ids("", Some(102)), received_events([103, 104]));
    let ids_with_grip_last = |query, value: &str| {
        let header = ("grip-last", value.to_owned());
        get_with(&orders, query, Some(header), true).event_ids()
    };
    let grip_last = "orders; last-id=104, orders-received; last-id=102";
    assert_eq!(
        ids_with_grip_last("after=101", grip_last),
        received_events([103, 104])
    );
    assert_eq!(
        ids_with_grip_last("after=103", grip_last),
        received_events([104])
    );
    let error = |query: &str, name: &'static str, value: &str| {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        let headers = HeaderMap::from_iter([(HeaderName::from_static(name), value)]);
        parse_position(query, &headers).unwrap_err()
    };
    let last_event_id = "last-event-id";
    assert_eq!(
        error("after=x", last_event_id, "1"),
        "after: expected the id of an order"
    );
    assert_eq!(
        error("after=1&after=2", last_event_id, "1"),
        "after: expected at most once"
    );
    for value in ["", "x", "1, 2", "-1", "é"] {
        assert_eq!(
            error("", last_event_id, value),
            "Last-Event-ID: expected the id of an order"
        );
    }
    assert_eq!(
        error("", "grip-last", "orders-received; last-id=x"),
        "Grip-Last: orders-received: expected the id of an order"
    );
    assert_eq!(
        error("", "grip-last", ";"),
        "Grip-Last: missing the name of the channel"
    );
}

#[test]
fn many_missed_orders_come_in_parts() {
    let orders = orders_with(250);
    let mut response = get(&orders, "after=99", None, true);
    let mut ids = response.event_ids();
    for last in [199, 299] {
        // Without a hold, the host fetches the next part at once.
        let only_next = Instruct::default().with_next(format!("{PATH}?after={last}"), POLL_SECONDS);
        assert_eq!(response.instruct, Some(only_next));
        let query = response.next().split_once('?').unwrap().1;
        response = get(&orders, query, None, true);
        ids.extend(response.event_ids());
    }
    assert_eq!(ids, received_events(100..350));
    assert_eq!(
        response.instruct.unwrap().hold,
        Some(hold::HoldMode::Stream)
    );
}

#[test]
fn parts_are_below_the_limit_of_pushpin() {
    use rand::{SeedableRng, rngs::SmallRng};
    let mut rng = SmallRng::seed_from_u64(1);
    let longest = (0..20_000).map(|_| {
        let order = Order {
            id: u64::MAX,
            status: Status::Cancelled,
            ..generator::random_order(&mut rng, "2026-01-02T03:04:05.678Z".into())
        };
        OrderEvent::Received.to_server_sent_event(&order).len()
    });
    let max_bytes = longest.max().unwrap() * (MAX_PART_ORDERS + MAX_LATEST) as usize;
    assert!(max_bytes < 100_000, "{max_bytes} bytes");
}

#[test]
fn updates_of_the_newest_orders_are_repeated() {
    let orders = orders_with(20);
    for id in [107, 108, 112, 119] {
        block_on(orders.update(id, Status::Fired)).unwrap();
    }
    let response = get(&orders, "after=115", None, true);
    let updated = [108, 112].map(|id| ("order-updated".into(), id));
    assert_eq!(
        response.event_ids(),
        [&updated[..], &received_events(116..=119)].concat()
    );
    let events = parse_events(&response.body);
    assert!(events[..2].iter().all(|event| event.id.is_none()));
    assert!(
        events[2..]
            .iter()
            .all(|event| event.id == Some(event.order.id))
    );
    let statuses: Vec<_> = events.iter().map(|event| event.order.status).collect();
    use Status::{Fired, Received};
    assert_eq!(
        statuses,
        [Fired, Fired, Received, Received, Received, Fired]
    );
}

#[test]
fn the_response_ends_without_a_hold() {
    let orders = orders_with(250);
    let response = get(&orders, "after=99", None, false);
    assert_eq!(response.event_ids(), received_events(100..350));
    assert!(response.body.ends_with("\n\nretry: 2000\n\n"));
    assert_eq!(response.instruct, None);
    assert_eq!(
        get(&orders, "after=349", None, false).body,
        "retry: 2000\n\n"
    );
}

/// A browser with an `EventSource`. It neither merges orders nor fills gaps.
#[derive(Debug, Default)]
struct Browser {
    last_event_id: Option<u64>,
    statuses: BTreeMap<u64, Status>,
    stream: Option<HeldStream>,
}

impl Browser {
    fn read(&mut self, stream: &str) {
        /// A status with a higher rank is newer.
        fn rank(status: Status) -> u8 {
            match status {
                Status::Received => 0,
                Status::Fired => 1,
                Status::Fulfilled | Status::Cancelled => 2,
            }
        }

        for Event { id, name, order } in parse_events(stream) {
            if name == "order-received" {
                assert_eq!(id, Some(order.id));
                if let Some(last) = self.last_event_id {
                    assert_eq!(order.id, last + 1, "each order comes once, in order");
                }
                self.last_event_id = id;
            } else {
                assert_eq!(id, None);
            }
            let status = self.statuses.entry(order.id).or_insert(order.status);
            if rank(*status) < rank(order.status) {
                *status = order.status;
            }
        }
    }
}

/// The state of a stream in the host.
#[derive(Debug)]
enum HeldStream {
    /// The first part is in flight. Published items do not reach the stream.
    Opening(HeldPart),
    /// Another part is in flight. Published items are queued until it arrives.
    Fetching(HeldPart, Vec<Item>),
    /// The stream is held. The next item with an id must follow `last`.
    Held { last: String, next: String },
}

#[derive(Debug)]
struct HeldPart {
    body: String,
    instruct: Instruct,
}

/// A GRIP host with one component. Requests and published items take time to arrive.
struct Host {
    orders: Orders,
    browsers: Vec<Browser>,
    /// The id of the last item with an id.
    last: Option<String>,
    /// Items that arrived before the item that they follow.
    pending: Vec<Item>,
    /// Published items that have not arrived yet.
    in_flight: Vec<Item>,
}

impl Host {
    fn new(browsers: usize) -> Host {
        Host {
            orders: testing::empty_orders(),
            browsers: (0..browsers).map(|_| Browser::default()).collect(),
            last: None,
            pending: Vec::new(),
            in_flight: Vec::new(),
        }
    }

    fn request(&self, query: &str, header: Option<(&'static str, String)>) -> HeldPart {
        let response = get_with(&self.orders, query, header, true);
        HeldPart {
            body: response.body,
            instruct: response.instruct.unwrap(),
        }
    }

    /// Requests the next part. The stream has the items up to `last`.
    fn fetch(&mut self, browser: usize, link: &str, last: Option<String>) {
        let channel = last.map(|last| hold::Channel::new(RECEIVED_CHANNEL).after(last));
        let header = channel.map(|channel| channel.to_grip_last().unwrap().unwrap());
        let header = header.map(|header| (grip::header::GRIP_LAST, header));
        let part = self.request(link.split_once('?').unwrap().1, header);
        self.browsers[browser].stream = Some(HeldStream::Fetching(part, Vec::new()));
    }

    fn connect(&mut self, browser: usize) {
        if self.browsers[browser].stream.is_none() {
            let last = self.browsers[browser].last_event_id;
            let part = self.request("", last.map(|id| ("last-event-id", id.to_string())));
            self.browsers[browser].stream = Some(HeldStream::Opening(part));
        }
    }

    fn disconnect(&mut self, browser: usize) {
        self.browsers[browser].stream = None;
    }

    /// Delivers the part in flight to its stream.
    fn deliver_part(&mut self, browser: usize) {
        let (part, items, first) = match self.browsers[browser].stream.take() {
            Some(HeldStream::Opening(part)) => (part, Vec::new(), true),
            Some(HeldStream::Fetching(part, items)) => (part, items, false),
            other => {
                self.browsers[browser].stream = other;
                return;
            }
        };
        self.browsers[browser].read(&part.body);
        let next = part.instruct.next.unwrap().uri;
        let received = part
            .instruct
            .channels
            .into_iter()
            .find(|channel| channel.name == RECEIVED_CHANNEL);
        let Some(last) = received.and_then(|channel| channel.prev_id) else {
            assert_eq!(part.instruct.hold, None);
            return self.fetch(browser, &next, None);
        };
        if first && self.last.as_ref().is_some_and(|id| *id != last) {
            self.last = None;
            return self.fetch(browser, &next, Some(last));
        }
        let follows =
            |item: &Item| item.channel != RECEIVED_CHANNEL || item.prev_id.as_ref() == Some(&last);
        let items: Vec<_> = items
            .into_iter()
            .skip_while(|item| !follows(item))
            .collect();
        self.browsers[browser].stream = Some(HeldStream::Held { last, next });
        for item in items {
            self.append(browser, &item);
        }
    }

    /// Lets the idle time of a stream expire.
    fn poll(&mut self, browser: usize) {
        if let Some(HeldStream::Held { last, next }) = &self.browsers[browser].stream {
            let (last, next) = (last.clone(), next.clone());
            self.fetch(browser, &next, Some(last));
        }
    }

    fn append(&mut self, browser: usize, item: &Item) {
        let has_id = item.channel == RECEIVED_CHANNEL;
        let Browser { stream, .. } = &mut self.browsers[browser];
        match stream {
            None | Some(HeldStream::Opening(_)) => {}
            Some(HeldStream::Fetching(_, items)) => items.push(item.clone()),
            Some(HeldStream::Held { last, next })
                if has_id && item.prev_id.as_ref() != Some(last) =>
            {
                let (last, next) = (last.clone(), next.clone());
                self.last = None;
                self.fetch(browser, &next, Some(last));
            }
            Some(HeldStream::Held { last, .. }) => {
                if has_id {
                    *last = item.id.clone().unwrap();
                }
                if let Some(format) = &item.http_stream {
                    let StreamAction::Send(content) = &format.action else {
                        panic!("unexpected item: {item:?}");
                    };
                    let content = String::from_utf8(content.to_vec()).unwrap();
                    self.browsers[browser].read(&content);
                }
            }
        }
    }

    fn send(&mut self, item: &Item) {
        if item.channel == RECEIVED_CHANNEL {
            self.last = item.id.clone();
        }
        for browser in 0..self.browsers.len() {
            self.append(browser, item);
        }
    }

    /// Delivers a published item, and then the pending items that follow it.
    fn deliver_item(&mut self, item: Item) {
        let must_wait = |item: &Item, last: &Option<String>| {
            item.channel == RECEIVED_CHANNEL && last.is_some() && item.prev_id != *last
        };
        if must_wait(&item, &self.last) {
            self.pending.push(item);
            return;
        }
        self.send(&item);
        while let Some(at) = self
            .pending
            .iter()
            .position(|item| !must_wait(item, &self.last))
        {
            let item = self.pending.remove(at);
            self.send(&item);
        }
    }

    /// Delivers pending items whose waiting time is over.
    fn expire(&mut self) {
        for item in std::mem::take(&mut self.pending) {
            self.send(&item);
        }
    }

    /// Restarts the host, which loses its state.
    fn restart(&mut self) {
        self.last = None;
        self.pending.clear();
        for browser in 0..self.browsers.len() {
            self.disconnect(browser);
        }
    }

    fn act(&mut self, action: Action) {
        let browser = |browser: usize| browser % self.browsers.len();
        match action {
            Action::Create => drop(testing::create(&self.orders)),
            Action::Update(back, status) => {
                let newest = block_on(self.orders.history.latest(1)).unwrap();
                if let Some(newest) = parse_orders(newest).unwrap().pop() {
                    // Invalid transitions fail and publish nothing.
                    let id = newest.id.saturating_sub(back);
                    let _ = block_on(self.orders.update(id, status));
                }
            }
            Action::DeliverItem(at) if !self.in_flight.is_empty() => {
                let item = self.in_flight.remove(at % self.in_flight.len());
                self.deliver_item(item);
            }
            Action::DropItem(at) if !self.in_flight.is_empty() => {
                self.in_flight.remove(at % self.in_flight.len());
            }
            Action::DeliverItem(_) | Action::DropItem(_) => {}
            Action::Connect(at) => self.connect(browser(at)),
            Action::Disconnect(at) => self.disconnect(browser(at)),
            Action::DeliverPart(at) => self.deliver_part(browser(at)),
            Action::Poll(at) => self.poll(browser(at)),
            Action::Expire => self.expire(),
            Action::Restart => self.restart(),
        }
        self.in_flight.extend(take_published());
    }

    /// Delivers everything in flight, and lets the idle time of all streams expire.
    fn settle(&mut self) {
        while !self.in_flight.is_empty() {
            self.act(Action::DeliverItem(0));
        }
        self.expire();
        for browser in 0..self.browsers.len() {
            self.connect(browser);
            self.deliver_all_parts(browser);
            self.poll(browser);
            self.deliver_all_parts(browser);
        }
    }

    fn deliver_all_parts(&mut self, browser: usize) {
        for _ in 0..100 {
            self.deliver_part(browser);
            if matches!(self.browsers[browser].stream, Some(HeldStream::Held { .. })) {
                return;
            }
        }
        panic!("the host requests parts without end");
    }
}

#[derive(Clone, Debug)]
enum Action {
    Create,
    Update(u64, Status),
    DeliverItem(usize),
    DropItem(usize),
    Connect(usize),
    Disconnect(usize),
    DeliverPart(usize),
    Poll(usize),
    Expire,
    Restart,
}

fn action() -> impl Strategy<Value = Action> {
    let status = prop_oneof![
        Just(Status::Fired),
        Just(Status::Fulfilled),
        Just(Status::Cancelled)
    ];
    prop_oneof![
        6 => Just(Action::Create),
        3 => (0..4_u64, status).prop_map(|(back, status)| Action::Update(back, status)),
        // Mostly the first item in flight, so that items rarely arrive out of order.
        6 => prop_oneof![3 => Just(0), 1 => 0..4_usize].prop_map(Action::DeliverItem),
        1 => (0..4_usize).prop_map(Action::DropItem),
        4 => (0..2_usize).prop_map(Action::Connect),
        1 => (0..2_usize).prop_map(Action::Disconnect),
        6 => (0..2_usize).prop_map(Action::DeliverPart),
        1 => (0..2_usize).prop_map(Action::Poll),
        1 => Just(Action::Expire),
        1 => Just(Action::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn browsers_get_each_order_once_and_in_order(
        actions in proptest::collection::vec(action(), 0..80),
    ) {
        let mut host = Host::new(2);
        for action in actions {
            host.act(action);
        }
        host.settle();
        let latest = block_on(host.orders.history.latest(MAX_LATEST)).unwrap();
        let latest = parse_orders(latest).unwrap();
        for browser in &host.browsers {
            prop_assert_eq!(browser.last_event_id, latest.last().map(|order| order.id));
            for order in &latest {
                // A browser that connected later, without an id, has fewer orders.
                if let Some(status) = browser.statuses.get(&order.id) {
                    prop_assert_eq!(*status, order.status, "order {}", order.id);
                }
            }
        }
    }
}
