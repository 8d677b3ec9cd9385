//! The restaurant's menu.

/// A dish or drink on the menu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dish {
    pub(crate) name: &'static str,
    /// The substitutions that a guest can ask for.
    pub(crate) substitutions: &'static [&'static str],
}

/// All dishes and drinks.
pub(crate) const MENU: [Dish; 7] = [
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
