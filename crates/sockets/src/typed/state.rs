//! What is kept about a connection between two calls.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use crate::{
    Connection, Result,
    connection::{Head, Meta, Transport},
    frame::SUBPROTOCOL,
    store::{Storage, Store, StoreError},
};

/// The state of a connection, as JSON in the store.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct State {
    uri: String,
    /// Whether the client understands the subprotocol of rooms.
    has_subprotocol: bool,
    /// The headers with metadata, as a GRIP host would send them.
    meta: BTreeMap<String, String>,
}

impl State {
    /// Returns the state of a connection after a call.
    pub(super) fn of(connection: &Connection) -> State {
        State {
            uri: connection.uri().to_string(),
            has_subprotocol: connection.has_subprotocol,
            meta: connection.meta.to_headers().into_iter().collect(),
        }
    }

    /// Returns the connection at the beginning of a call.
    pub(super) fn connection(self, id: String) -> Result<Connection> {
        let mut headers = HeaderMap::new();
        if self.has_subprotocol {
            let protocol = HeaderValue::from_static(SUBPROTOCOL);
            headers.insert("sec-websocket-protocol", protocol);
        }
        let mut meta = HeaderMap::new();
        for (name, value) in &self.meta {
            let name = HeaderName::from_bytes(name.as_bytes())?;
            meta.insert(name, HeaderValue::from_str(value)?);
        }
        let head = Head {
            id,
            uri: self.uri.parse()?,
            headers,
        };
        let meta = Meta::from_headers(&meta);
        Ok(Connection::new(head, Transport::Typed, meta, false))
    }

    pub(super) async fn load(id: &str) -> Result<Option<State>> {
        let key = key(id);
        let mut values = Store::default().get(vec![key.clone()]).await?;
        match values.remove(&key) {
            Some(value) => Ok(Some(serde_json::from_slice(&value)?)),
            None => Ok(None),
        }
    }

    pub(super) async fn save(&self, id: &str) -> Result {
        let value = serde_json::to_vec(self)?;
        Ok(Store::default().set(&key(id), value).await?)
    }

    pub(super) async fn delete(id: &str) -> Result<(), StoreError> {
        Store::default().delete(vec![key(id)]).await
    }
}

fn key(id: &str) -> String {
    format!("connections/{id}")
}
