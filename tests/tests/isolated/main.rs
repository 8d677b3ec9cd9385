//! Tests Socket Burger's components in a simulated world: with a scripted time, with seeds, and with
//! stores and a host that fail.

mod faults;
mod orders;
mod page;
mod parity;
mod publishing;
mod races;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use component_testing::{Response, TestApp, TestAppBuilder, WebSocket, http::Request};
use serde_json::{Value, json};
use tests::{wasm, workspace};

/// The timer that creates orders.
const TIMER: &str = "/internal/orders";

/// When the clock of [`burger`] starts: 2026-01-02, 03:04:05.678 UTC.
const START_MILLIS: u64 = 1_767_323_045_678;

/// Returns Socket Burger.
fn burger() -> TestAppBuilder {
    let start: SystemTime = UNIX_EPOCH + Duration::from_millis(START_MILLIS);
    TestApp::from_manifest(workspace()).start_time(start)
}

/// Returns the order service alone. Clients may create orders at the same time, as the timers of several
/// hosts would.
fn order_service() -> TestAppBuilder {
    TestApp::from_component(wasm("orders")).key_value_store("default")
}

/// Creates an order, and returns it.
fn create(app: &TestApp) -> Value {
    let response = app.run_timer("POST /internal/orders");
    assert_eq!(response.status(), 201, "{response:?}");
    response.json()
}

/// Returns the orders that the service lists, oldest first.
fn list(app: &TestApp) -> Vec<Value> {
    let response = app.get("/api/orders?after=0");
    assert_eq!(response.status(), 200, "{response:?}");
    let Value::Array(orders) = response.json::<Value>()["orders"].take() else {
        panic!("no list: {response:?}")
    };
    orders
}

fn ids(orders: &[Value]) -> Vec<u64> {
    let ids = orders.iter().map(|order| order["id"].as_u64());
    ids.map(|id| id.expect("an id")).collect()
}

/// Returns a request that sets the status of an order.
fn set_status(id: u64, status: &str) -> Request<String> {
    Request::post(format!("/api/orders/{id}/status"))
        .header("content-type", "application/json")
        .body(json!({ "status": status }).to_string())
        .expect("a valid request")
}

/// Returns the message with which a client sets the status of an order.
fn status_message(id: u64, status: &str) -> String {
    let detail = json!({ "id": id, "status": status });
    json!({ "event": "order-status", "detail": detail }).to_string()
}

/// Returns the events that a client has received since the last call: their names and details.
fn take_events(client: &WebSocket) -> Vec<(String, Value)> {
    let texts = client.take_texts().into_iter();
    let events = texts.map(|text| {
        let mut event: Value = serde_json::from_str(&text).expect("JSON");
        let name = event["event"].as_str().expect("a name").to_owned();
        (name, event["detail"].take())
    });
    events.collect()
}

/// Returns a client that has opened its WebSocket.
fn connect(app: &TestApp) -> WebSocket {
    let client = app.websocket("/api/ws").expect("the service accepts it");
    assert_eq!(client.subscriptions(), ["orders"]);
    client
}

fn status_code(response: &Response) -> u16 {
    response.status().as_u16()
}
