//! Orders and their JSON representation.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// An order. Its JSON has the fields in the sequence of their declaration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The time of creation: RFC 3339, UTC, with milliseconds.
    pub(crate) timestamp: String,
    /// A number that starts at 100 and rises by 1.
    pub(crate) id: u64,
    pub(crate) destination: Destination,
    pub(crate) status: Status,
    /// One to eight items.
    pub(crate) items: Vec<Item>,
    /// Notes for the kitchen.
    pub(crate) notes: Vec<String>,
}

/// A dish or drink in an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Item {
    /// The name on the menu.
    pub(crate) name: Cow<'static, str>,
    pub(crate) substitutions: Vec<Cow<'static, str>>,
}

/// The place where an order is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Destination {
    #[serde(rename = "dining room")]
    DiningRoom,
    Takeout,
    #[serde(rename = "drive thru")]
    DriveThru,
}

/// The progress of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// The order was created.
    Received,
    /// The kitchen is preparing the order.
    Fired,
    /// The order was handed over to the guest.
    Fulfilled,
    /// The order is no longer wanted.
    Cancelled,
}

impl Order {
    /// Encodes the order as JSON.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("orders serialize to JSON")
    }
}

impl Destination {
    /// All destinations.
    pub(crate) const ALL: [Destination; 3] = [
        Destination::DiningRoom,
        Destination::Takeout,
        Destination::DriveThru,
    ];
}

impl Status {
    /// Returns the name that the status has in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Status::Received => "received",
            Status::Fired => "fired",
            Status::Fulfilled => "fulfilled",
            Status::Cancelled => "cancelled",
        }
    }

    /// Returns whether an order with this status can change to `next`.
    pub(crate) fn can_become(self, next: Status) -> bool {
        use Status::*;
        matches!(
            (self, next),
            (Received, Fired) | (Fired, Fulfilled) | (Received | Fired, Cancelled)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUSES: [Status; 4] = [
        Status::Received,
        Status::Fired,
        Status::Fulfilled,
        Status::Cancelled,
    ];

    #[test]
    fn json_matches_the_original_client() {
        let order = Order {
            timestamp: "2026-01-02T03:04:05.678Z".into(),
            id: 100,
            destination: Destination::DriveThru,
            status: Status::Received,
            items: vec![Item {
                name: "Hamburger".into(),
                substitutions: vec!["no onion".into()],
            }],
            notes: vec![],
        };
        let json = r#"{"timestamp":"2026-01-02T03:04:05.678Z","id":100,"destination":"drive thru","status":"received","items":[{"name":"Hamburger","substitutions":["no onion"]}],"notes":[]}"#;
        assert_eq!(serde_json::to_string(&order).unwrap(), json);
        assert_eq!(serde_json::from_str::<Order>(json).unwrap(), order);
        let destinations = serde_json::to_string(&Destination::ALL).unwrap();
        assert_eq!(destinations, r#"["dining room","takeout","drive thru"]"#);
    }

    #[test]
    fn status_names_match_their_json() {
        for status in STATUSES {
            let json = format!("{:?}", status.name());
            assert_eq!(serde_json::to_string(&status).unwrap(), json);
        }
    }

    #[test]
    fn only_some_status_transitions_are_allowed() {
        let allowed = STATUSES.map(|from| STATUSES.map(|to| from.can_become(to)));
        assert_eq!(
            allowed,
            [
                [false, true, false, true],
                [false, false, true, true],
                [false, false, false, false],
                [false, false, false, false],
            ]
        );
    }
}
