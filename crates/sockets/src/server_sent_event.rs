//! Encodes server-sent events.

/// Returns an event with this data and no id.
pub(crate) fn data_event(data: &str) -> String {
    let mut event = String::with_capacity(data.len() + 8);
    // Each of the three ends a line of an event stream.
    for line in data.replace("\r\n", "\n").split(['\n', '\r']) {
        event.push_str("data: ");
        event.push_str(line);
        event.push('\n');
    }
    event.push('\n');
    event
}

/// Returns an event with this id, which has no line breaks.
pub(crate) fn event_with_id(id: &str, data: &str) -> String {
    format!("id: {id}\n{}", data_event(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_the_data_has_a_field() {
        assert_eq!(data_event("one"), "data: one\n\n");
        assert_eq!(data_event(""), "data: \n\n");
        assert_eq!(
            event_with_id("7", "a\nb\r\nc\rd"),
            "id: 7\ndata: a\ndata: b\ndata: c\ndata: d\n\n"
        );
    }
}
