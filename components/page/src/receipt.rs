//! Renders orders as receipts in HTML.
//!
//! `static/receipt.js` builds the same elements in the browser: keep the two in sync.

use std::fmt::{self, Display};

use crate::order::{Item, Order};

/// Displays text escaped for an element's content or a quoted attribute.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(['&', '<', '>', '"', '\'']) {
            out.write_str(&rest[..at])?;
            out.write_str(match rest.as_bytes()[at] {
                b'&' => "&amp;",
                b'<' => "&lt;",
                b'>' => "&gt;",
                b'"' => "&quot;",
                _ => "&#39;",
            })?;
            rest = &rest[at + 1..];
        }
        out.write_str(rest)
    }
}

/// Displays an order as one `<li>`.
pub(crate) struct Receipt<'a>(pub(crate) &'a Order);

impl Display for Receipt<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Order {
            id,
            timestamp,
            destination,
            status,
            items,
            notes,
        } = self.0;
        let (label, action) = labels(status);
        write!(
            out,
            concat!(
                r#"<li class="receipt" data-id="{id}" data-status="{status}">"#,
                r#"<article class="paper" aria-labelledby="order-{id}" tabindex="-1">"#,
                r#"<p class="state"><span class="label">{label}</span><span class="age"></span></p>"#,
                r#"<p class="brand"><time datetime="{timestamp}">{time}</time>"#,
                r#" Socket Burger</p>"#,
                r#"<h2 id="order-{id}">Order #: <b>{id}</b></h2>"#,
                r#"<p class="destination">{destination}</p>"#,
                r#"<ul class="items">"#,
            ),
            id = id,
            status = Escaped(status),
            label = Escaped(label),
            timestamp = Escaped(timestamp),
            time = Escaped(&format_time(timestamp)),
            destination = Escaped(destination),
        )?;
        for item in items {
            write_item(out, item)?;
        }
        out.write_str("</ul>")?;
        write_list(out, "notes", notes)?;
        write!(
            out,
            concat!(
                r#"<p class="actions">"#,
                r#"<button class="advance" type="button" tabindex="-1" aria-describedby="order-{id}">{action}</button>"#,
                r#"<button class="cancel" type="button" tabindex="-1" aria-describedby="order-{id}">Cancel</button>"#,
                r#"</p></article></li>"#,
            ),
            action = action,
            id = id
        )
    }
}

/// Returns the label of a status, and the label of the button that advances it.
fn labels(status: &str) -> (&str, &'static str) {
    match status {
        "received" => ("Received", "Fire"),
        "fired" => ("Fired", "Fulfil"),
        "fulfilled" => ("Fulfilled", ""),
        "cancelled" => ("Cancelled", ""),
        other => (other, ""),
    }
}

fn write_item(out: &mut fmt::Formatter<'_>, item: &Item) -> fmt::Result {
    write!(out, "<li>1 {}", Escaped(&item.name))?;
    write_list(out, "substitutions", &item.substitutions)?;
    out.write_str("</li>")
}

/// Writes a list, or nothing if it is empty.
fn write_list(out: &mut fmt::Formatter<'_>, class: &str, lines: &[String]) -> fmt::Result {
    if lines.is_empty() {
        return Ok(());
    }
    write!(out, r#"<ul class="{class}">"#)?;
    for line in lines {
        write!(out, "<li>{}</li>", Escaped(line))?;
    }
    out.write_str("</ul>")
}

/// Formats `2023-12-18T11:07:53.120Z` as `11:07 UTC`, and returns other text unchanged.
///
/// Scripts replace it by the time in the reader's own zone and format.
fn format_time(timestamp: &str) -> String {
    let minutes = timestamp.split_once('T').and_then(|(date, time)| {
        let is_time = date.len() == 10 && time.len() >= 9 && time.ends_with('Z');
        time.get(..5).filter(|_| is_time)
    });
    match minutes {
        Some(minutes) => format!("{minutes} UTC"),
        None => timestamp.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order() -> Order {
        Order {
            id: 155,
            timestamp: "2023-12-18T11:08:13.042Z".to_owned(),
            destination: "drive thru".to_owned(),
            status: "received".to_owned(),
            items: vec![
                Item {
                    name: "Vanilla Shake".to_owned(),
                    substitutions: Vec::new(),
                },
                Item {
                    name: "Cheeseburger".to_owned(),
                    substitutions: vec!["no sauce".to_owned(), "no tomato".to_owned()],
                },
            ],
            notes: Vec::new(),
        }
    }

    #[test]
    fn receipt_contains_the_whole_order() {
        assert_eq!(
            Receipt(&order()).to_string(),
            concat!(
                r#"<li class="receipt" data-id="155" data-status="received">"#,
                r#"<article class="paper" aria-labelledby="order-155" tabindex="-1">"#,
                r#"<p class="state"><span class="label">Received</span><span class="age"></span></p>"#,
                r#"<p class="brand">"#,
                r#"<time datetime="2023-12-18T11:08:13.042Z">11:08 UTC</time> Socket Burger</p>"#,
                r#"<h2 id="order-155">Order #: <b>155</b></h2>"#,
                r#"<p class="destination">drive thru</p>"#,
                r#"<ul class="items">"#,
                r#"<li>1 Vanilla Shake</li>"#,
                r#"<li>1 Cheeseburger<ul class="substitutions">"#,
                r#"<li>no sauce</li><li>no tomato</li></ul></li>"#,
                r#"</ul>"#,
                r#"<p class="actions">"#,
                r#"<button class="advance" type="button" tabindex="-1" aria-describedby="order-155">Fire</button>"#,
                r#"<button class="cancel" type="button" tabindex="-1" aria-describedby="order-155">Cancel</button>"#,
                r#"</p></article></li>"#,
            )
        );
    }

    #[test]
    fn notes_follow_the_items() {
        let mut order = order();
        order.notes = vec!["allergic to nuts".to_owned()];
        let html = Receipt(&order).to_string();
        assert!(
            html.contains(r#"</ul><ul class="notes"><li>allergic to nuts</li></ul><p class="#),
            "{html}"
        );
    }

    #[test]
    fn text_is_never_markup() {
        let evil = r#""><script>alert('&')</script>"#.to_owned();
        let order = Order {
            id: 1,
            timestamp: evil.clone(),
            destination: evil.clone(),
            status: evil.clone(),
            items: vec![Item {
                name: evil.clone(),
                substitutions: vec![evil.clone()],
            }],
            notes: vec![evil],
        };
        let html = Receipt(&order).to_string();
        assert!(!html.contains("<script"), "{html}");
        let escaped = "&quot;&gt;&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;";
        assert_eq!(html.matches(escaped).count(), 8, "{html}");
    }

    #[test]
    fn unknown_time_formats_are_unchanged() {
        assert_eq!(format_time("2023-12-18T11:07:53Z"), "11:07 UTC");
        assert_eq!(format_time("2023-12-18T11:07:53.120Z"), "11:07 UTC");
        for other in [
            "yesterday",
            "T.Z",
            "2023-12-18T11:0é:53Z",
            "2023-12-18T11:07Z",
        ] {
            assert_eq!(format_time(other), other);
        }
    }

    proptest! {
        #[test]
        fn escaping_is_lossless_and_complete(text in any::<String>()) {
            let html = Escaped(&text).to_string();
            prop_assert!(!html.contains(['<', '>', '"', '\'']));
            let back = html
                .replace("&lt;", "<")
                .replace("&gt;", ">")
                .replace("&quot;", "\"")
                .replace("&#39;", "'")
                .replace("&amp;", "&");
            prop_assert_eq!(back, text);
        }

        #[test]
        fn any_timestamp_can_be_formatted(text in any::<String>()) {
            prop_assert!(text.is_empty() || !format_time(&text).is_empty());
        }
    }
}
