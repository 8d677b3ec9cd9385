//! todo
use crate::case::cases;
cases! {}
