//! A chat with rooms, a history, and a count of those present.

use sockets::{Connection, Handler, Result, Room};

struct Chat;

impl Handler for Chat {
    async fn open(&self, connection: &mut Connection) -> Result {
        connection.join(&room(connection)).await
    }

    async fn text(&self, connection: &mut Connection, text: &str) -> Result {
        room(connection).send(text).await
    }
}

fn room(connection: &Connection) -> Room {
    let name = connection.parameter("room").unwrap_or("lobby".into());
    Room::new(name).keep(100).counted()
}

sockets::export!(Chat);

#[cfg(test)]
mod tests {
    use sockets::testing::connect;

    use super::*;

    #[test]
    fn rooms_have_a_history_and_a_count() {
        let mut ada = connect(&Chat, "/?room=tea");
        ada.send("hello");
        assert_eq!(ada.items::<String>(), ["hello"]);
        let mut bob = connect(&Chat, "/?room=tea");
        assert_eq!(bob.items::<String>(), ["hello"]);
        assert_eq!(ada.count(), Some(2));
        let mut other = connect(&Chat, "/");
        assert_eq!(other.count(), Some(1));
    }
}
