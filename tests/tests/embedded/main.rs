//! Components in isolation: the embedded runtime without a listener, asked by its one call.

mod baseline;
mod exchange;
mod files;
mod fixture;
mod key_value;
mod life;
mod load;
mod outbound;
mod requests;
