//! Tests of the stream: its parts, and what a browser makes of it behind a GRIP host that
//! holds it, whatever is lost, late or overtaken on the way.

use std::collections::BTreeMap;

use futures_util::FutureExt;
use grip::{Item, publish::StreamAction};
use http_body_util::BodyExt;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::{
    generator,
    testing::{self, TestKitchen},
};

/// An answer, as a host takes it.
struct Answer {
    instruct: Option<Instruct>,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    /// Names of events and ids of orders.
    fn told(&self) -> Vec<(String, u64)> {
        let events = events(&self.body);
        events
            .into_iter()
            .map(|event| (event.name, event.order.id))
            .collect()
    }

    fn next(&self) -> &str {
        &self.instruct.as_ref().unwrap().next.as_ref().unwrap().uri
    }
}

fn ask(kitchen: &TestKitchen, query: &str, last_event_id: Option<u64>, held: bool) -> Answer {
    let header = last_event_id.map(|id| ("last-event-id", id.to_string()));
    ask_with(kitchen, query, header, held)
}

fn ask_with(
    kitchen: &TestKitchen,
    query: &str,
    header: Option<(&'static str, String)>,
    held: bool,
) -> Answer {
    let header = header.map(|(name, value)| {
        let value = HeaderValue::try_from(value);
        (HeaderName::from_static(name), value.unwrap())
    });
    let headers = HeaderMap::from_iter(header);
    let after = after(query, &headers).unwrap();
    let reply = testing::now(answer(&kitchen.history, after, held)).unwrap();
    assert_eq!(reply.status(), 200);
    let (head, body) = reply.into_parts();
    let body = body.collect().now_or_never().unwrap().unwrap().to_bytes();
    let pairs = head.headers.iter();
    let pairs = pairs.map(|(name, value)| (name.as_str(), value.as_bytes()));
    Answer {
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

/// Reads a stream as browsers do. Comments and `retry` are no events.
fn events(stream: &str) -> Vec<Event> {
    let Some(stream) = stream.strip_suffix("\n\n") else {
        assert_eq!(stream, "", "the stream ends within an event");
        return Vec::new();
    };
    let events = stream.split("\n\n").filter_map(|event| {
        let field = |wanted: &str| {
            let fields = event.lines().filter_map(|line| line.split_once(": "));
            let mut values = fields
                .filter(|field| field.0 == wanted)
                .map(|field| field.1);
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

fn received(ids: impl IntoIterator<Item = u64>) -> Vec<(String, u64)> {
    ids.into_iter()
        .map(|id| ("order-received".into(), id))
        .collect()
}

fn kitchen_with(orders: usize) -> TestKitchen {
    let kitchen = testing::kitchen();
    (0..orders).for_each(|_| drop(testing::make(&kitchen)));
    kitchen
}

#[test]
fn is_held_after_what_it_tells() {
    let kitchen = testing::kitchen();
    let empty = ask(&kitchen, "", None, true);
    assert_eq!(empty.body, "");
    assert_eq!(empty.headers["content-type"], "text/event-stream");
    assert_eq!(empty.headers["cache-control"], "no-store");
    assert_eq!(empty.headers["x-accel-buffering"], "no");
    let expected = |last: u64| {
        let chain = hold::Channel::new("orders-received").after(last.to_string());
        Instruct::stream([chain, hold::Channel::new("orders")])
            .with_keep_alive(":\n\n", 20)
            .with_next(format!("/api/orders/stream?after={last}"), 120)
    };
    assert_eq!(empty.instruct, Some(expected(99)));
    (0..20).for_each(|_| drop(testing::make(&kitchen)));
    let latest = ask(&kitchen, "", None, true);
    assert_eq!(latest.told(), received(108..=119));
    assert_eq!(latest.instruct, Some(expected(119)));
    for (after, ids) in [
        (118, 119..=119),
        (107, 108..=119),
        (100, 101..=119),
        (0, 100..=119),
    ] {
        let part = ask(&kitchen, &format!("after={after}"), None, true);
        assert_eq!(part.told(), received(ids), "after {after}");
        assert_eq!(part.instruct, Some(expected(119)), "after {after}");
    }
    let nothing = ask(&kitchen, "after=119", None, true);
    assert_eq!(
        (&*nothing.body, nothing.instruct),
        ("", Some(expected(119)))
    );
    // One that was never given out: the store is not the one that the browser knew.
    let other = ask(&kitchen, "after=120", None, true);
    assert_eq!(other.told(), received(108..=119));
    assert_eq!(other.instruct, Some(expected(119)));
}

#[test]
fn the_latest_of_query_and_headers_counts() {
    let kitchen = kitchen_with(5);
    let told = |query, header| ask(&kitchen, query, header, true).told();
    assert_eq!(told("after=102", Some(103)), received([104]));
    assert_eq!(told("after=103", Some(102)), received([104]));
    assert_eq!(told("x=1&after=102", None), received([103, 104]));
    assert_eq!(told("", Some(102)), received([103, 104]));
    let with_grip_last = |query, value: &str| {
        let header = ("grip-last", value.to_owned());
        ask_with(&kitchen, query, Some(header), true).told()
    };
    let chain = "orders; last-id=104, orders-received; last-id=102";
    assert_eq!(with_grip_last("after=101", chain), received([103, 104]));
    assert_eq!(with_grip_last("after=103", chain), received([104]));
    let bad = |query: &str, name: &'static str, value: &str| {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        let headers = HeaderMap::from_iter([(HeaderName::from_static(name), value)]);
        after(query, &headers).unwrap_err()
    };
    let last = "last-event-id";
    assert_eq!(
        bad("after=x", last, "1"),
        "after: the id of an order, a whole number"
    );
    assert_eq!(bad("after=1&after=2", last, "1"), "after: only once");
    for value in ["", "x", "1, 2", "-1", "é"] {
        assert_eq!(
            bad("", last, value),
            "Last-Event-ID: the id of an order, a whole number"
        );
    }
    assert_eq!(
        bad("", "grip-last", "orders-received; last-id=x"),
        "Grip-Last: orders-received: the id of an order, a whole number"
    );
    assert_eq!(
        bad("", "grip-last", ";"),
        "Grip-Last: must have the channel's name"
    );
}

#[test]
fn long_absences_are_told_in_parts() {
    let kitchen = kitchen_with(250);
    let mut answer = ask(&kitchen, "after=99", None, true);
    let mut told = answer.told();
    for last in [199, 299] {
        // Nothing to wait for: the host is to go on at once.
        let only_next = Instruct::default().with_next(format!("{PATH}?after={last}"), QUIET);
        assert_eq!(answer.instruct, Some(only_next));
        let query = answer.next().split_once('?').unwrap().1;
        answer = ask(&kitchen, query, None, true);
        told.extend(answer.told());
    }
    assert_eq!(told, received(100..350));
    assert_eq!(answer.instruct.unwrap().hold, Some(hold::HoldMode::Stream));
}

#[test]
fn a_part_is_not_too_long_for_any_host() {
    use rand::{SeedableRng, rngs::SmallRng};
    let mut rng = SmallRng::seed_from_u64(1);
    let longest = (0..20_000).map(|_| {
        let order = Order {
            id: u64::MAX,
            status: Status::Cancelled,
            ..generator::order(&mut rng, "2026-01-02T03:04:05.678Z".into())
        };
        News::Received.stream_event(&order).len()
    });
    let most = longest.max().unwrap() * (MAX_PART + MAX_LATEST) as usize;
    assert!(most < 100_000, "{most} bytes");
}

#[test]
fn tells_again_what_became_of_the_latest() {
    let kitchen = kitchen_with(20);
    for id in [107, 108, 112, 119] {
        testing::now(kitchen.update(id, Status::Fired)).unwrap();
    }
    let answer = ask(&kitchen, "after=115", None, true);
    let updated = [108, 112].map(|id| ("order-updated".into(), id));
    assert_eq!(answer.told(), [&updated[..], &received(116..=119)].concat());
    let events = events(&answer.body);
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
fn ends_where_nobody_holds_it() {
    let kitchen = kitchen_with(250);
    let answer = ask(&kitchen, "after=99", None, false);
    assert_eq!(answer.told(), received(100..350));
    assert!(answer.body.ends_with("\n\nretry: 2000\n\n"));
    assert_eq!(answer.instruct, None);
    assert_eq!(
        ask(&kitchen, "after=349", None, false).body,
        "retry: 2000\n\n"
    );
}

/// A browser with an `EventSource`: it merges nothing and fills no gaps.
#[derive(Debug, Default)]
struct Browser {
    last_event_id: Option<u64>,
    statuses: BTreeMap<u64, Status>,
    stream: Option<Stream>,
}

impl Browser {
    fn read(&mut self, stream: &str) {
        /// No status goes back: what is further came later.
        fn rank(status: Status) -> u8 {
            match status {
                Status::Received => 0,
                Status::Fired => 1,
                Status::Fulfilled | Status::Cancelled => 2,
            }
        }

        for Event { id, name, order } in events(stream) {
            if name == "order-received" {
                assert_eq!(id, Some(order.id));
                if let Some(last) = self.last_event_id {
                    assert_eq!(order.id, last + 1, "every order once, and in order");
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

/// A held response, as the host sees it.
#[derive(Debug)]
enum Stream {
    /// The first part, on its way from the component: published items pass it by.
    Opening(Part),
    /// The next part, on its way: published items wait for it.
    Fetching(Part, Vec<Item>),
    /// Held: what is published on the chain must follow `last`.
    Held { last: String, next: String },
}

#[derive(Debug)]
struct Part {
    body: String,
    instruct: Instruct,
}

/// A GRIP host, as the protocol has it, that knows one component and takes its time.
struct Host {
    kitchen: TestKitchen,
    browsers: Vec<Browser>,
    /// The last id published on the chain, and items that do not follow it.
    last: Option<String>,
    waiting: Vec<Item>,
    /// Published, and not here yet.
    on_the_way: Vec<Item>,
}

impl Host {
    fn new(browsers: usize) -> Host {
        Host {
            kitchen: testing::kitchen(),
            browsers: (0..browsers).map(|_| Browser::default()).collect(),
            last: None,
            waiting: Vec::new(),
            on_the_way: Vec::new(),
        }
    }

    fn ask(&self, query: &str, header: Option<(&'static str, String)>) -> Part {
        let answer = ask_with(&self.kitchen, query, header, true);
        let instruct = answer.instruct.unwrap();
        let body = answer.body;
        Part { body, instruct }
    }

    /// Fetches the next part; `last` of the chain was sent.
    fn fetch(&mut self, browser: usize, link: &str, last: Option<String>) {
        let chain = last.map(|last| hold::Channel::new(CHAIN).after(last));
        let header = chain.map(|chain| chain.to_grip_last().unwrap().unwrap());
        let header = header.map(|header| (grip::header::GRIP_LAST, header));
        let part = self.ask(link.split_once('?').unwrap().1, header);
        self.browsers[browser].stream = Some(Stream::Fetching(part, Vec::new()));
    }

    fn connect(&mut self, browser: usize) {
        if self.browsers[browser].stream.is_none() {
            let last = self.browsers[browser].last_event_id;
            let part = self.ask("", last.map(|id| ("last-event-id", id.to_string())));
            self.browsers[browser].stream = Some(Stream::Opening(part));
        }
    }

    fn disconnect(&mut self, browser: usize) {
        self.browsers[browser].stream = None;
    }

    /// The part on its way to a stream arrives.
    fn arrive(&mut self, browser: usize) {
        let (part, items, first) = match self.browsers[browser].stream.take() {
            Some(Stream::Opening(part)) => (part, Vec::new(), true),
            Some(Stream::Fetching(part, items)) => (part, items, false),
            other => {
                self.browsers[browser].stream = other;
                return;
            }
        };
        self.browsers[browser].read(&part.body);
        let next = part.instruct.next.unwrap().uri;
        let chain = part
            .instruct
            .channels
            .into_iter()
            .find(|channel| channel.name == CHAIN);
        let Some(last) = chain.and_then(|chain| chain.prev_id) else {
            assert_eq!(part.instruct.hold, None);
            return self.fetch(browser, &next, None);
        };
        if first && self.last.as_ref().is_some_and(|known| *known != last) {
            self.last = None;
            return self.fetch(browser, &next, Some(last));
        }
        let follows = |item: &Item| item.channel != CHAIN || item.prev_id.as_ref() == Some(&last);
        let items: Vec<_> = items
            .into_iter()
            .skip_while(|item| !follows(item))
            .collect();
        self.browsers[browser].stream = Some(Stream::Held { last, next });
        items
            .into_iter()
            .for_each(|item| self.append(browser, &item));
    }

    /// A stream is quiet for long.
    fn quiet(&mut self, browser: usize) {
        if let Some(Stream::Held { last, next }) = &self.browsers[browser].stream {
            let (last, next) = (last.clone(), next.clone());
            self.fetch(browser, &next, Some(last));
        }
    }

    fn append(&mut self, browser: usize, item: &Item) {
        let on_chain = item.channel == CHAIN;
        let Browser { stream, .. } = &mut self.browsers[browser];
        match stream {
            None | Some(Stream::Opening(_)) => {}
            Some(Stream::Fetching(_, items)) => items.push(item.clone()),
            Some(Stream::Held { last, next })
                if on_chain && item.prev_id.as_ref() != Some(last) =>
            {
                let (last, next) = (last.clone(), next.clone());
                self.last = None;
                self.fetch(browser, &next, Some(last));
            }
            Some(Stream::Held { last, .. }) => {
                if on_chain {
                    *last = item.id.clone().unwrap();
                }
                if let Some(format) = &item.http_stream {
                    let StreamAction::Send(content) = &format.action else {
                        panic!("published {item:?}");
                    };
                    let content = String::from_utf8(content.to_vec()).unwrap();
                    self.browsers[browser].read(&content);
                }
            }
        }
    }

    fn send(&mut self, item: &Item) {
        if item.channel == CHAIN {
            self.last = item.id.clone();
        }
        (0..self.browsers.len()).for_each(|browser| self.append(browser, item));
    }

    /// An item arrives, and those that waited for it go on.
    fn publish(&mut self, item: Item) {
        let waits = |item: &Item, last: &Option<String>| {
            item.channel == CHAIN && last.is_some() && item.prev_id != *last
        };
        if waits(&item, &self.last) {
            self.waiting.push(item);
            return;
        }
        self.send(&item);
        while let Some(at) = self
            .waiting
            .iter()
            .position(|item| !waits(item, &self.last))
        {
            let item = self.waiting.remove(at);
            self.send(&item);
        }
    }

    /// Items have waited for long enough.
    fn expire(&mut self) {
        for item in std::mem::take(&mut self.waiting) {
            self.send(&item);
        }
    }

    /// The host dies, and what it knew with it.
    fn restart(&mut self) {
        self.last = None;
        self.waiting.clear();
        (0..self.browsers.len()).for_each(|browser| self.disconnect(browser));
    }

    fn act(&mut self, action: Action) {
        let browser = |browser: usize| browser % self.browsers.len();
        match action {
            Action::Make => drop(testing::make(&self.kitchen)),
            Action::Update(back, status) => {
                let newest = testing::now(self.kitchen.history.latest(1)).unwrap();
                if let Some(newest) = parse(newest).unwrap().pop() {
                    // Impossible for some; that is no news then.
                    let id = newest.id.saturating_sub(back);
                    let _ = testing::now(self.kitchen.update(id, status));
                }
            }
            Action::Deliver(at) if !self.on_the_way.is_empty() => {
                let item = self.on_the_way.remove(at % self.on_the_way.len());
                self.publish(item);
            }
            Action::Lose(at) if !self.on_the_way.is_empty() => {
                self.on_the_way.remove(at % self.on_the_way.len());
            }
            Action::Deliver(_) | Action::Lose(_) => {}
            Action::Connect(at) => self.connect(browser(at)),
            Action::Disconnect(at) => self.disconnect(browser(at)),
            Action::Arrive(at) => self.arrive(browser(at)),
            Action::Quiet(at) => self.quiet(browser(at)),
            Action::Expire => self.expire(),
            Action::Restart => self.restart(),
        }
        self.on_the_way.extend(self.kitchen.announcer.take());
    }

    /// All that is under way arrives, and then nothing happens for long.
    fn settle(&mut self) {
        while !self.on_the_way.is_empty() {
            self.act(Action::Deliver(0));
        }
        self.expire();
        for browser in 0..self.browsers.len() {
            self.connect(browser);
            self.arrive_all(browser);
            self.quiet(browser);
            self.arrive_all(browser);
        }
    }

    fn arrive_all(&mut self, browser: usize) {
        for _ in 0..100 {
            self.arrive(browser);
            if matches!(self.browsers[browser].stream, Some(Stream::Held { .. })) {
                return;
            }
        }
        panic!("the host fetches part after part");
    }
}

#[derive(Clone, Debug)]
enum Action {
    Make,
    Update(u64, Status),
    Deliver(usize),
    Lose(usize),
    Connect(usize),
    Disconnect(usize),
    Arrive(usize),
    Quiet(usize),
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
        6 => Just(Action::Make),
        3 => (0..4_u64, status).prop_map(|(back, status)| Action::Update(back, status)),
        // The first on its way, mostly: the last makers overtake the others now and then.
        6 => prop_oneof![3 => Just(0), 1 => 0..4_usize].prop_map(Action::Deliver),
        1 => (0..4_usize).prop_map(Action::Lose),
        4 => (0..2_usize).prop_map(Action::Connect),
        1 => (0..2_usize).prop_map(Action::Disconnect),
        6 => (0..2_usize).prop_map(Action::Arrive),
        1 => (0..2_usize).prop_map(Action::Quiet),
        1 => Just(Action::Expire),
        1 => Just(Action::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_browser_sees_every_order_once_and_in_order(
        actions in proptest::collection::vec(action(), 0..80),
    ) {
        let mut host = Host::new(2);
        for action in actions {
            host.act(action);
        }
        host.settle();
        let latest = testing::now(host.kitchen.history.latest(MAX_LATEST)).unwrap();
        let latest = parse(latest).unwrap();
        for browser in &host.browsers {
            prop_assert_eq!(browser.last_event_id, latest.last().map(|order| order.id));
            for order in &latest {
                // One that connected later, without an id, knows fewer.
                if let Some(status) = browser.statuses.get(&order.id) {
                    prop_assert_eq!(*status, order.status, "order {}", order.id);
                }
            }
        }
    }
}
