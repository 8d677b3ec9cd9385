//! `--spin`: the host in front of a `spin up` that it has started. A stand-in takes the place of Spin.

mod by_hand;
mod fixture;
mod life;
mod orders;
mod requests;
mod start;
