//! The page, with the orders that it gets from the order service.

use component_testing::http::Request;

use crate::{burger, create};

/// Returns the ids of the receipts on the page.
fn receipts(html: &str) -> Vec<&str> {
    let receipts = html.split("data-id=\"").skip(1);
    receipts.filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn the_page_shows_the_newest_orders() {
    let app = burger().build().unwrap();
    let empty = app.get("/");
    assert_eq!(empty.status(), 200);
    assert!(
        empty
            .header("content-type")
            .unwrap()
            .starts_with("text/html")
    );
    assert!(receipts(&empty.text()).is_empty());
    for _ in 0..14 {
        create(&app);
    }
    let html = app.get("/").text();
    let newest: Vec<_> = (102..114).map(|id| id.to_string()).collect();
    assert_eq!(receipts(&html), newest);
}

#[test]
fn the_page_is_rendered_without_orders_if_these_are_unavailable() {
    let app = burger().build().unwrap();
    create(&app);
    app.store("default").fail_all();
    let page = app.get("/");
    assert_eq!(page.status(), 200);
    assert!(receipts(&page.text()).is_empty());
    let log = app.log("page");
    assert!(log.contains("rendering without orders"), "{log}");
    app.store("default").recover();
    assert_eq!(receipts(&app.get("/").text()), ["100"]);
}

#[test]
fn assets_are_versioned_or_revalidated() {
    let app = burger().build().unwrap();
    let html = app.get("/").text();
    let script = html
        .split("src=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    let script = script.expect("the page has a script");
    let lasting = app.get(script);
    assert_eq!(lasting.status(), 200);
    let cache_control = lasting.header("cache-control").unwrap();
    assert!(cache_control.contains("immutable"), "{cache_control}");
    let plain = app.get("/static/main.js");
    assert_eq!(plain.body(), lasting.body());
    let request = Request::get("/static/main.js");
    let request = request.header("if-none-match", plain.header("etag").unwrap());
    let response = app.request(request.body("").unwrap());
    assert_eq!(response.status(), 304);
    assert!(response.body().is_empty());
    assert_eq!(app.get("/static/none.js").status(), 404);
    assert_eq!(app.post("/", "").status(), 405);
}
