//! Components in the embedded runtime, called without a listener.

mod baseline;

mod cron;
mod files;
mod fixture;
mod key_value;
mod life;
mod load;
mod outbound;
mod replace;
mod requests;
