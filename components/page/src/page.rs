//! Renders the whole page.

use std::fmt::Write as _;

use crate::order::Order;
use crate::receipt::Receipt;

const TEMPLATE: &str = include_str!("page.html");

/// Where the receipts go in the template. It occurs there once, and is replaced
/// once, so that nothing an order says is taken for it.
const RECEIPTS: &str = "{{receipts}}";

/// How many receipts the rail holds; `static/main.js` keeps as many.
const RAIL: usize = 12;

/// The page with the last of `orders` (oldest first) on its rail.
pub(crate) fn render(orders: &[Order]) -> String {
    let shown = &orders[orders.len().saturating_sub(RAIL)..];
    let mut receipts = String::new();
    for order in shown {
        _ = write!(receipts, "{}", Receipt(order));
    }
    TEMPLATE.replacen(RECEIPTS, &receipts, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::Orders;

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
    fn every_asset_the_template_names_exists() {
        let assets = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../static");
        let mut names = 0;
        for rest in TEMPLATE.split("\"/static/").skip(1) {
            let name = rest.split('"').next().unwrap_or_default();
            assert!(assets.join(name).is_file(), "static/{name}");
            names += 1;
        }
        assert!(names > 2);
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
