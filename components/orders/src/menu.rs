//! What can be ordered, and what can be different about it.

/// Something that can be ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dish {
    /// Its name.
    pub name: &'static str,
    /// What can be different about it.
    pub substitutions: &'static [&'static str],
}

/// All that can be ordered.
pub const MENU: [Dish; 7] = [
    Dish::new("Double Burger", BURGER),
    Dish::new("Cheeseburger", BURGER),
    Dish::new("Hamburger", BURGER),
    Dish::new("French Fries", FRIES),
    Dish::new("Vanilla Shake", &[]),
    Dish::new("Strawberry Shake", &[]),
    Dish::new("Chocolate Shake", &[]),
];

const BURGER: &[&str] = &[
    "extra sauce",
    "no lettuce",
    "no onion",
    "no tomato",
    "no sauce",
    "no bread",
];

const FRIES: &[&str] = &["no salt", "well done", "add sauce"];

impl Dish {
    const fn new(name: &'static str, substitutions: &'static [&'static str]) -> Dish {
        Dish {
            name,
            substitutions,
        }
    }
}
