//! {{project-description}}

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
    fn messages_reach_the_room() {
        let mut ada = connect(&Chat, "/?room=tea");
        let mut bob = connect(&Chat, "/?room=tea");
        assert_eq!(ada.count(), Some(2));
        ada.send("hello");
        assert_eq!(bob.items::<String>(), ["hello"]);
    }
}
