//! Renders the page.

use std::fmt::Write as _;

use crate::asset_refs::{Syntax, replace_refs};
use crate::assets::Snapshot;
use crate::order::Order;
use crate::receipt::Receipt;

const TEMPLATE: &str = include_str!("page.html");

/// The template's placeholder for the receipts.
///
/// It is replaced last and once, so an order's text cannot be taken for a placeholder.
const RECEIPTS: &str = "{{receipts}}";

/// The template's placeholder for preload links to the modules that `MAIN` imports.
/// Without these, a browser fetches nested imports one level at a time.
const MODULES: &str = "{{modules}}";

const MAIN: &str = "main.js";

/// How many receipts the rail shows; the same as in `static/main.js`.
const RAIL_SIZE: usize = 12;

/// Renders the page with the newest of `orders`, which are sorted oldest first.
pub(crate) fn render(orders: &[Order], assets: &mut Snapshot<'_>) -> String {
    let shown = &orders[orders.len().saturating_sub(RAIL_SIZE)..];
    let mut receipts = String::new();
    for order in shown {
        _ = write!(receipts, "{}", Receipt(order));
    }
    let mut modules = String::new();
    for name in assets.dependencies(MAIN) {
        _ = writeln!(
            modules,
            r#"<link rel="modulepreload" href="/static/{name}">"#
        );
    }
    replace_refs(TEMPLATE, Syntax::Html, |name| Some(assets.version(name)))
        .replacen(MODULES, modules.trim_end(), 1)
        .replacen(RECEIPTS, &receipts, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assets::Assets;
    use crate::order::Orders;

    fn assets() -> Assets {
        Assets::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../static")).with_folder(
            "client",
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../client/src"),
        )
    }

    fn render(orders: &[Order]) -> String {
        super::render(orders, &mut assets().snapshot())
    }

    fn orders(ids: std::ops::Range<u64>) -> Vec<Order> {
        ids.map(|id| Order {
            id,
            timestamp: "2023-12-18T11:08:13.042Z".to_owned(),
            destination: "takeout".to_owned(),
            status: "received".to_owned(),
            items: Vec::new(),
            notes: Vec::new(),
        })
        .collect()
    }

    #[test]
    fn template_has_one_placeholder_for_receipts() {
        assert_eq!(TEMPLATE.matches(RECEIPTS).count(), 1);
    }

    #[test]
    fn template_holds_nothing_that_the_policy_refuses() {
        for refused in ["style=", "<style", "onload=", "<script>", "://"] {
            assert!(!TEMPLATE.contains(refused), "{refused}");
        }
    }

    #[test]
    fn assets_are_referenced_by_version() {
        let html = render(&[]);
        let assets = assets();
        let mut names = Vec::new();
        for rest in html.split("\"/static/").skip(1) {
            let name = rest.split('"').next().unwrap_or_default();
            let found = assets.snapshot().resolve(name).expect("readable");
            assert!(
                found.is_some_and(|(_, is_versioned)| is_versioned),
                "{name}"
            );
            names.push(name.split('.').next().unwrap_or_default());
        }
        // From the template, from the modules and from the client, without duplicates.
        for name in ["page", "clock", "client/reconnecting-socket"] {
            assert!(names.contains(&name), "{name} in {names:?}");
        }
        names.sort();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }

    #[test]
    fn newest_twelve_orders_are_shown_oldest_first() {
        let html = render(&orders(100..120));
        let shown: Vec<_> = html
            .split("data-id=\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .collect();
        let expected: Vec<_> = (108..120).map(|id| id.to_string()).collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn rail_is_empty_without_orders() {
        let html = render(&[]);
        assert!(html.contains(r#"id="rail"></ol>"#), "{html}");
        assert!(html.contains("New orders will appear here"));
    }

    #[test]
    fn placeholder_in_an_order_is_not_replaced() {
        let mut one = orders(100..101);
        one[0].destination = RECEIPTS.to_owned();
        assert_eq!(render(&one).matches(RECEIPTS).count(), 1);
    }

    #[test]
    fn orders_are_parsed_as_the_service_sends_them() {
        let json = r#"{"orders":[{"timestamp":"2023-12-18T11:08:13.042Z","id":155,
            "destination":"drive thru","status":"received","later":true,
            "items":[{"name":"Hamburger","substitutions":["no onion"]}],"notes":[]}]}"#;
        let Orders { orders } = serde_json::from_str(json).expect("the service's format");
        assert!(render(&orders).contains("<li>1 Hamburger<ul"));
    }
}
