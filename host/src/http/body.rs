//! Reads whole bodies within a size and a time limit.

use std::{mem, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use spin_runtime::backend::{Body, BodyError};
use tokio::time::timeout;

/// Why a body could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadBodyError {
    #[error("body exceeds {0} bytes")]
    TooLarge(usize),
    #[error("body ended early: {0}")]
    Incomplete(BodyError),
    #[error("body did not end within {0:?}")]
    Timeout(Duration),
}

/// Returns the content of a body of at most `max_bytes` that ends within `time_limit`.
///
/// A body that arrives in one frame is not copied, and nothing is allocated for it: each event of a
/// WebSocket takes this path. Trailers are dropped.
pub(crate) async fn read_body(
    body: Body,
    max_bytes: usize,
    time_limit: Duration,
) -> Result<Bytes, ReadBodyError> {
    timeout(time_limit, read(body, max_bytes))
        .await
        .unwrap_or(Err(ReadBodyError::Timeout(time_limit)))
}

async fn read(mut body: Body, max_bytes: usize) -> Result<Bytes, ReadBodyError> {
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(ReadBodyError::Incomplete)?.into_data() else {
            continue;
        };
        if first.len() + joined.len() + data.len() > max_bytes {
            return Err(ReadBodyError::TooLarge(max_bytes));
        }
        if first.is_empty() && joined.is_empty() {
            first = data;
        } else {
            joined.extend_from_slice(&mem::take(&mut first));
            joined.extend_from_slice(&data);
        }
    }
    Ok(if joined.is_empty() {
        first
    } else {
        joined.freeze()
    })
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use spin_runtime::backend::full;

    use super::*;

    const TIME_LIMIT: Duration = Duration::from_secs(1);

    fn chunked(chunks: &[&'static str]) -> Body {
        let frames: Vec<_> = chunks
            .iter()
            .map(|chunk| Ok(Frame::data(Bytes::from_static(chunk.as_bytes()))))
            .collect();
        StreamBody::new(stream::iter(frames)).boxed_unsync()
    }

    #[tokio::test]
    async fn chunks_are_joined() {
        let read = read_body(chunked(&["a", "", "bc"]), 3, TIME_LIMIT).await;
        assert_eq!(read.expect("a body within the limits"), "abc");
    }

    #[tokio::test]
    async fn single_chunk_is_not_copied() {
        let content = Bytes::from(vec![b'x'; 100]);
        let read = read_body(full(content.clone()), 100, TIME_LIMIT).await;
        let read = read.expect("a body within the limits");
        assert_eq!(read.as_ptr(), content.as_ptr());
    }

    #[tokio::test]
    async fn larger_body_is_an_error() {
        let read = read_body(chunked(&["ab", "cd"]), 3, TIME_LIMIT).await;
        assert!(matches!(read, Err(ReadBodyError::TooLarge(3))));
    }

    #[tokio::test]
    async fn broken_body_is_an_error() {
        let broken = stream::iter([Ok(Frame::data(Bytes::new())), Err("reset".into())]);
        let read = read_body(StreamBody::new(broken).boxed_unsync(), 3, TIME_LIMIT).await;
        let error = read.expect_err("an incomplete body");
        assert_eq!(error.to_string(), "body ended early: reset");
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_body_is_an_error() {
        let stalled = StreamBody::new(stream::pending()).boxed_unsync();
        let read = read_body(stalled, 3, TIME_LIMIT).await;
        assert!(matches!(read, Err(ReadBodyError::Timeout(TIME_LIMIT))));
    }
}
