//! The host's side of the interfaces for Redis, generated from `wit/`.

use crate::embedded::outbound_redis;

wasmtime::component::bindgen!({
    path: "wit",
    world: "socket-host:embedded/redis",
    imports: { default: async | trappable },
    with: {
        "spin:redis/redis.connection": outbound_redis::OpenConnection,
        "fermyon:spin/redis.connection": outbound_redis::OpenConnection,
    },
    require_store_data_send: true,
});
