//! Messages of a client that the host answers without asking the backend.

use grip::Message;

use crate::{config::Limits, pubsub::frames::Frames};

/// The most messages that are answered for one WebSocket.
const MAX_RESPONSES: usize = Limits::DEFAULT.max_auto_responses;

/// The longest message, and the longest answer, in bytes.
const MAX_BYTES: usize = Limits::DEFAULT.max_auto_response_bytes;

/// The messages of one WebSocket with their answers.
#[derive(Default)]
pub(super) struct AutoResponses(Vec<AutoResponse>);

struct AutoResponse {
    request: Box<str>,
    /// Encoded once.
    response: Frames,
}

/// Why an answer cannot be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AutoResponseError {
    #[error("a text is longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error("there are {MAX_RESPONSES} already")]
    TooMany,
}

impl AutoResponses {
    /// Sets the answer to a message. An empty one removes it.
    ///
    /// # Errors
    /// Fails at a limit, and leaves the answers as they are.
    pub(super) fn set(&mut self, request: &str, response: String) -> Result<(), AutoResponseError> {
        if request.len() > MAX_BYTES || response.len() > MAX_BYTES {
            return Err(AutoResponseError::TooLong);
        }
        let index = self.0.iter().position(|it| *it.request == *request);
        if response.is_empty() {
            if let Some(index) = index {
                self.0.remove(index);
            }
            return Ok(());
        }
        let response = Frames::single(Message::Text(response.into()));
        match index {
            Some(index) => self.0[index].response = response,
            None if self.0.len() == MAX_RESPONSES => return Err(AutoResponseError::TooMany),
            None => self.0.push(AutoResponse {
                request: request.into(),
                response,
            }),
        }
        Ok(())
    }

    /// Returns the answer to a message.
    pub(super) fn find(&self, message: &str) -> Option<&Frames> {
        let found = self.0.iter().find(|it| *it.request == *message)?;
        Some(&found.response)
    }

    /// Returns whether there are no answers.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::frame;

    #[test]
    fn answers_are_set_replaced_and_removed() {
        let mut responses = AutoResponses::default();
        let answer = |responses: &AutoResponses, message: &str| {
            let frames = responses.find(message)?;
            Some(frames.plain().clone())
        };
        responses.set("ping", "pong".into()).unwrap();
        responses.set("hello", "hi".into()).unwrap();
        responses.set("ping", "still here".into()).unwrap();
        assert_eq!(
            answer(&responses, "ping"),
            Some(frame::text("still here".into()))
        );
        assert_eq!(answer(&responses, "hello"), Some(frame::text("hi".into())));
        assert_eq!(answer(&responses, "Ping"), None);
        responses.set("ping", String::new()).unwrap();
        responses.set("never set", String::new()).unwrap();
        assert_eq!(answer(&responses, "ping"), None);
        responses.set("hello", String::new()).unwrap();
        assert!(responses.is_empty());
    }

    #[test]
    fn there_are_limits() {
        let mut responses = AutoResponses::default();
        let long = "x".repeat(MAX_BYTES + 1);
        for (request, response) in [("x", &long[..]), (&long, "x")] {
            let error = responses.set(request, response.to_owned());
            assert_eq!(error, Err(AutoResponseError::TooLong));
        }
        for number in 0..MAX_RESPONSES {
            responses.set(&number.to_string(), "x".into()).unwrap();
        }
        let error = responses.set("one more", "x".into());
        assert_eq!(error, Err(AutoResponseError::TooMany));
        responses.set("0", "replaced".into()).unwrap();
    }
}
