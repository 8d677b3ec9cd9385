//! Components in the embedded runtime, called without a listener.

mod baseline;
mod compose;
mod cron;
mod files;
mod fixture;
mod key_value;
mod life;
mod load;
mod outbound;
mod overload;
mod redis;
mod replace;
mod requests;
mod sockets;
mod sqlite;
mod start;
mod storage;
mod websockets;
