//! Renders the whole page.

use std::fmt::Write as _;

use crate::assets::Look;
use crate::order::Order;
use crate::receipt::Receipt;
use crate::reference::{Syntax, replaced};

const TEMPLATE: &str = include_str!("page.html");

/// Where the receipts go in the template. It occurs there once, and is replaced
/// once and last, so that nothing an order says is taken for it.
const RECEIPTS: &str = "{{receipts}}";

/// Where the template tells of the modules that `MAIN` needs, so that all are
/// fetched at once.
const MODULES: &str = "{{modules}}";

const MAIN: &str = "main.js";

/// How many receipts the rail holds; `static/main.js` keeps as many.
const RAIL: usize = 12;

/// The page with the last of `orders` (oldest first) on its rail.
pub(crate) fn render(orders: &[Order], assets: &mut Look<'_>) -> String {
    let shown = &orders[orders.len().saturating_sub(RAIL)..];
    let mut receipts = String::new();
    for order in shown {
        _ = write!(receipts, "{}", Receipt(order));
    }
    let mut modules = String::new();
    for name in assets.used_by(MAIN) {
        _ = writeln!(
            modules,
            r#"<link rel="modulepreload" href="/static/{name}">"#
        );
    }
    replaced(TEMPLATE, Syntax::Page, |name| Some(assets.version(name)))
        .replacen(MODULES, modules.trim_end(), 1)
        .replacen(RECEIPTS, &receipts, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assets::Assets;
    use crate::order::Orders;

    fn assets() -> Assets {
        Assets::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../static"))
    }

    fn render(orders: &[Order]) -> String {
        super::render(orders, &mut assets().look())
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
    fn the_template_has_one_place_for_receipts() {
        assert_eq!(TEMPLATE.matches(RECEIPTS).count(), 1);
    }

    #[test]
    fn the_policy_allows_all_the_template_holds() {
        // `style=`, `on…=` and inline scripts would be refused by the browser.
        for refused in ["style=", "<style", "onload=", "<script>", "://"] {
            assert!(!TEMPLATE.contains(refused), "{refused}");
        }
    }

    #[test]
    fn every_asset_is_named_with_its_version() {
        let html = render(&[]);
        let assets = assets();
        let mut names = Vec::new();
        for rest in html.split("\"/static/").skip(1) {
            let name = rest.split('"').next().unwrap_or_default();
            let found = assets.look().asked_for(name).expect("readable");
            assert!(found.is_some_and(|(_, is_fixed)| is_fixed), "{name}");
            names.push(name.split('.').next().unwrap_or_default());
        }
        // One from the template, one from the modules, and none twice.
        assert!(
            names.contains(&"page") && names.contains(&"clock"),
            "{names:?}"
        );
        names.sort();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }

    #[test]
    fn the_last_twelve_are_shown_oldest_first() {
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
    fn without_orders_the_rail_is_empty() {
        let html = render(&[]);
        assert!(html.contains(r#"id="rail"></ol>"#), "{html}");
        assert!(html.contains("New orders will appear here"));
    }

    #[test]
    fn an_order_cannot_name_the_place_for_receipts() {
        let mut one = orders(100..101);
        one[0].destination = RECEIPTS.to_owned();
        assert_eq!(render(&one).matches(RECEIPTS).count(), 1);
    }

    #[test]
    fn orders_are_read_as_the_service_sends_them() {
        let json = r#"{"orders":[{"timestamp":"2023-12-18T11:08:13.042Z","id":155,
            "destination":"drive thru","status":"received","later":true,
            "items":[{"name":"Hamburger","substitutions":["no onion"]}],"notes":[]}]}"#;
        let Orders { orders } = serde_json::from_str(json).expect("the service's format");
        assert!(render(&orders).contains("<li>1 Hamburger<ul"));
    }
}
