//! `spin:variables` by means of `wasi:config`.

use crate::{
    Adapter,
    bindings::{
        exports::spin::variables::variables::{Error, Guest},
        wasi::config::store,
    },
};

impl Guest for Adapter {
    async fn get(name: String) -> Result<String, Error> {
        match store::get(&name) {
            Ok(Some(value)) => Ok(value),
            Ok(None) => Err(Error::Undefined(name)),
            Err(store::Error::Upstream(message) | store::Error::Io(message)) => {
                Err(Error::Provider(message))
            }
        }
    }
}
