//! Key-value stores and databases.

use std::collections::BTreeSet;

use component_testing::{StoreCall, http::Request};

use crate::{probe, probe02, reproducible};

#[test]
fn a_test_and_the_component_share_a_store() {
    let app = probe().build().unwrap();
    app.store("default").set("a", "from the test");
    assert_eq!(app.get("/get?key=a").text(), "from the test");
    assert_eq!(app.get("/set?key=b&value=c").text(), "done");
    assert_eq!(app.get("/exists?key=b").text(), "Ok(true)");
    assert_eq!(app.get("/keys").text(), "a,b");
    assert_eq!(app.get("/increment?key=n&by=7").text(), "7");
    assert_eq!(
        app.get("/cas?key=a").text(),
        "from the test, someone else's, mine"
    );
    assert_eq!(app.get("/get-many?keys=b,none").text(), "b=c,none=nothing");
    assert_eq!(app.get("/delete?key=b").text(), "done");
    let store = app.store("default");
    assert_eq!(store.keys(), ["a", "n"]);
    assert_eq!(store.text("a").as_deref(), Some("mine"));
    assert_eq!(store.get("n"), Some(7_i64.to_le_bytes().to_vec()));
    let app = probe02().build().unwrap();
    assert_eq!(app.get("/keep").text(), "value");
    assert_eq!(app.store("default").keys(), ["kept by 0.2"]);
}

#[test]
fn a_store_must_be_allowed() {
    let app = probe().build().unwrap();
    let response = app.get("/get?key=a&store=other");
    assert_eq!(response.status(), 502);
    assert!(response.text().contains("AccessDenied"), "{response:?}");
    let warnings = app.warnings();
    assert!(
        warnings
            .iter()
            .any(|line| line.contains("key-value store denied")),
        "{warnings:?}"
    );
}

#[test]
fn calls_are_recorded_and_can_fail() {
    let app = probe().build().unwrap();
    let store = app.store("default");
    let set = |value: u32| app.get(&format!("/set?key=a&value={value}"));
    assert_eq!(set(1).status(), 200);
    let call = StoreCall {
        operation: "set",
        keys: vec!["a".to_owned()],
    };
    assert_eq!(store.calls(), [call]);

    store.fail_call(2);
    let refused = set(2);
    assert_eq!(refused.status(), 502);
    assert!(refused.text().contains("simulated failure"), "{refused:?}");
    assert_eq!(store.text("a").as_deref(), Some("1"));

    store.lose_result(3);
    assert_eq!(set(3).status(), 502);
    assert_eq!(store.text("a").as_deref(), Some("3"));

    store.fail_all();
    assert_eq!(
        (set(4).status().as_u16(), set(5).status().as_u16()),
        (502, 502)
    );
    store.recover();
    assert_eq!(set(6).status(), 200);
    assert_eq!(
        (store.text("a").as_deref(), store.call_count()),
        (Some("6"), 6)
    );
}

#[test]
fn seeds_explore_the_order_of_concurrent_calls() {
    let mut orders = BTreeSet::new();
    for seed in 0..30 {
        orders.insert(reproducible(|| {
            let app = probe().seed(seed).build().unwrap();
            let set = |value| {
                Request::get(format!("/set?key=a&value={value}"))
                    .body("")
                    .unwrap()
            };
            let responses = app.concurrently((0..3).map(set));
            assert!(responses.iter().all(|response| response.status() == 200));
            app.store("default").text("a").unwrap()
        }));
    }
    // Each of the three was the last one.
    assert_eq!(orders.len(), 3, "{orders:?}");
}

#[test]
fn databases_are_empty_and_take_no_time() {
    for _ in 0..2 {
        let app = probe().sqlite_database("default").build().unwrap();
        let start = app.now();
        let sql = "/sql?sql=create+table+t(x)&then=insert+into+t+values(7)".replace('+', "%20");
        assert_eq!(app.get(&sql).status(), 200, "{:?}", app.get(&sql));
        let select = app.get("/sql?sql=select%20x%20from%20t");
        assert!(select.text().contains('7'), "{select:?}");
        assert_eq!(app.get("/sql?sql=rubbish").status(), 502);
        assert_eq!(app.now(), start);
    }
    let app = probe02().sqlite_database("default").build().unwrap();
    assert!(app.get("/sql?select%207").text().contains('7'));
}
