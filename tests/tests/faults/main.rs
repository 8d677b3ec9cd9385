//! Faults of components, disks, clocks and descriptors, and overload: each has a defined outcome, a log
//! line and a metric, and the host serves on.

mod clock;
mod components;
mod descriptors;
mod events;
mod overload;
mod storage;
