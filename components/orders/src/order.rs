//! An order, and its form in JSON: fields in this sequence, names and values in lower case.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// One order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// When it was made: RFC 3339, UTC, with milliseconds.
    pub timestamp: String,
    /// Its number: from 100, rising by 1.
    pub id: u64,
    /// Where it goes.
    pub destination: Destination,
    /// How far it is.
    pub status: Status,
    /// What is in it, 1 to 8 items.
    pub items: Vec<Item>,
    /// What else the kitchen should know.
    pub notes: Vec<String>,
}

/// One thing to eat or to drink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Its name on the menu.
    pub name: Cow<'static, str>,
    /// What is to be different about it.
    pub substitutions: Vec<Cow<'static, str>>,
}

/// Where an order goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Destination {
    /// To a table.
    #[serde(rename = "dining room")]
    DiningRoom,
    /// Over the counter.
    Takeout,
    /// Through the window.
    #[serde(rename = "drive thru")]
    DriveThru,
}

/// How far an order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// On the rail.
    Received,
    /// Being cooked.
    Fired,
    /// Handed out.
    Fulfilled,
    /// No longer wanted.
    Cancelled,
}

impl Destination {
    /// All of them.
    pub const ALL: [Destination; 3] = [
        Destination::DiningRoom,
        Destination::Takeout,
        Destination::DriveThru,
    ];
}

impl Status {
    /// The name it has in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Status::Received => "received",
            Status::Fired => "fired",
            Status::Fulfilled => "fulfilled",
            Status::Cancelled => "cancelled",
        }
    }

    /// Whether an order can go from this to `next` in one step.
    pub fn can_become(self, next: Status) -> bool {
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

    #[test]
    fn json_is_the_original_clients() {
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
    fn statuses() {
        use Status::*;
        let all = [Received, Fired, Fulfilled, Cancelled];
        for status in all {
            let json = format!("{:?}", status.name());
            assert_eq!(serde_json::to_string(&status).unwrap(), json);
        }
        let steps = all.map(|from| all.map(|to| from.can_become(to)));
        assert_eq!(
            steps,
            [
                [false, true, false, true],
                [false, false, true, true],
                [false, false, false, false],
                [false, false, false, false],
            ]
        );
    }
}
