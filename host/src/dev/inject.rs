//! Appends a script tag to HTML pages.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use spin_runtime::backend::{Body, BodyError, full};

use crate::http::error_response::BackendFailure;

/// Response headers that describe the page without the script.
const INVALIDATED_HEADERS: [&str; 6] = [
    "etag",
    "last-modified",
    "accept-ranges",
    "content-md5",
    "content-digest",
    "digest",
];

/// A script tag for the response to a page request.
pub(crate) struct ScriptTag(String);

impl ScriptTag {
    pub(crate) fn new(markup: String) -> Self {
        Self(markup)
    }

    /// Appends the tag to a response if that is an HTML page. Browsers run a script that comes after
    /// `</html>` as if it ended the body.
    pub(crate) fn inject(self, mut response: Response<Body>) -> Response<Body> {
        if response
            .extensions_mut()
            .remove::<BackendFailure>()
            .is_some()
        {
            response = error_page(response);
        }
        if !is_complete_html(&response) {
            return response;
        }
        let (mut parts, body) = response.into_parts();
        let headers = &mut parts.headers;
        if let Some(length) = headers.remove(header::CONTENT_LENGTH)
            && let Some(length) = length
                .to_str()
                .ok()
                .and_then(|text| text.trim().parse().ok())
            && let Some(length) = u64::checked_add(length, size(self.0.as_bytes()))
        {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        for name in INVALIDATED_HEADERS {
            headers.remove(name);
        }
        // A cached page would keep the script after `--watch` has ended.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let body = AppendedBody::new(body, self.0.into());
        Response::from_parts(parts, body.boxed_unsync())
    }
}

/// Returns whether a browser requests a page to navigate to, and not a fragment.
pub(crate) fn is_page_request<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let accepts = headers.get_all(header::ACCEPT).iter();
    let mut accepts = accepts.filter_map(|value| value.to_str().ok());
    let destination = headers.get("sec-fetch-dest");
    matches!(*request.method(), Method::GET | Method::POST)
        && accepts.any(|types| types.to_ascii_lowercase().contains("text/html"))
        && destination.is_none_or(|destination| destination == "document")
}

/// Returns whether a response has a whole HTML page as its body, to which markup can be appended.
fn is_complete_html(response: &Response<Body>) -> bool {
    let has_page = !matches!(
        response.status(),
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::PARTIAL_CONTENT
    );
    has_page && is_html(response.headers()) && is_uncompressed(response.headers())
}

fn is_html(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        let value = value.to_str().unwrap_or_default().to_ascii_lowercase();
        let media_type = value.split(';').next().unwrap_or_default();
        media_type.trim() == "text/html" && !value.contains("utf-16")
    })
}

fn is_uncompressed(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    codings.all(|coding| coding == "identity")
}

/// Replaces the text of an error response by a page, which reloads once the error is fixed.
fn error_page(response: Response<Body>) -> Response<Body> {
    let status = response.status();
    // A missing route is not logged.
    let reason = if status == StatusCode::NOT_FOUND {
        "The application has no route for this path."
    } else {
        "The application did not respond. See the terminal for the reason."
    };
    let page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{status}</title></head>\
         <body><h1>{status}</h1><p>{reason}</p></body></html>"
    );
    let mut response = response.map(|_| full(page));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    response
}

/// A body followed by more data.
struct AppendedBody {
    body: Body,
    /// `None` once it has been sent.
    suffix: Option<Bytes>,
    /// The trailers of `body`, which come after the suffix.
    trailers: Option<Frame<Bytes>>,
}

impl AppendedBody {
    fn new(body: Body, suffix: Bytes) -> Self {
        Self {
            body,
            suffix: Some(suffix),
            trailers: None,
        }
    }
}

impl http_body::Body for AppendedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.suffix.is_none() {
            return Poll::Ready(self.trailers.take().map(Ok));
        }
        match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) if frame.is_trailers() => self.trailers = Some(frame),
            None => {}
            frame => return Poll::Ready(frame),
        }
        Poll::Ready(self.suffix.take().map(|suffix| Ok(Frame::data(suffix))))
    }

    fn is_end_stream(&self) -> bool {
        self.suffix.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let Some(suffix) = self.suffix.as_deref().map(size) else {
            return SizeHint::with_exact(0);
        };
        let body = self.body.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = body.upper().and_then(|upper| upper.checked_add(suffix)) {
            hint.set_upper(upper);
        }
        hint.set_lower(body.lower().saturating_add(suffix));
        hint
    }
}

fn size(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, stream};
    use http_body::Body as _;
    use http_body_util::{BodyExt, StreamBody};
    use proptest::prelude::*;
    use spin_runtime::backend::BackendError;
    use tokio::sync::mpsc;

    use super::*;
    use crate::http::error_response::backend_error_response;

    const MARK: &str = "<MARK>";

    fn appended(body: Body) -> AppendedBody {
        AppendedBody::new(body, Bytes::from_static(MARK.as_bytes()))
    }

    fn streamed(frames: Vec<Result<Frame<Bytes>, BodyError>>) -> Body {
        BodyExt::boxed_unsync(StreamBody::new(stream::iter(frames)))
    }

    fn text(bytes: Bytes) -> String {
        String::from_utf8(bytes.into()).unwrap()
    }

    #[test]
    fn data_is_passed_on_as_it_arrives() {
        let (sender, receiver) = mpsc::unbounded_channel::<&'static str>();
        let chunks = stream::unfold(receiver, async |mut receiver| {
            let chunk = receiver.recv().await?;
            Some((Ok(Frame::data(Bytes::from(chunk))), receiver))
        });
        let mut body = appended(BodyExt::boxed_unsync(StreamBody::new(chunks)));
        let mut next = || {
            let frame = body.frame().now_or_never()?;
            frame.map(|frame| text(frame.unwrap().into_data().unwrap()))
        };
        for chunk in ["<html><p>first", " second, </he", "ad>"] {
            sender.send(chunk).unwrap();
            assert_eq!(next().as_deref(), Some(chunk));
        }
        assert_eq!(next(), None);
        drop(sender);
        assert_eq!(next().as_deref(), Some(MARK));
        assert_eq!(next(), None);
        assert!(body.is_end_stream());
    }

    #[test]
    fn trailers_come_after_the_suffix() {
        let trailers = HeaderMap::from_iter([(header::ETAG, HeaderValue::from_static("a"))]);
        let frames = vec![
            Ok(Frame::data(Bytes::from_static(b"<p>"))),
            Ok(Frame::trailers(trailers.clone())),
        ];
        let body = appended(streamed(frames));
        let collected = body.collect().now_or_never().unwrap().unwrap();
        assert_eq!(collected.trailers(), Some(&trailers));
        assert_eq!(text(collected.to_bytes()), format!("<p>{MARK}"));
    }

    #[test]
    fn an_error_of_the_body_is_an_error() {
        let frames = vec![
            Ok(Frame::data(Bytes::from_static(b"<p>"))),
            Err("broken".into()),
        ];
        let body = appended(streamed(frames));
        assert!(body.collect().now_or_never().unwrap().is_err());
    }

    #[tokio::test]
    async fn an_error_page_gives_the_reason() {
        let error_page = async |error: &BackendError| {
            let page =
                ScriptTag("<script></script>".to_owned()).inject(backend_error_response(error));
            text(page.into_body().collect().await.unwrap().to_bytes())
        };
        let path = "/nowhere".to_owned();
        let not_found = error_page(&BackendError::NoRoute { path }).await;
        assert!(not_found.contains("no route for this path"), "{not_found}");
        assert!(!not_found.contains("terminal"), "{not_found}");
        let component = "page".to_owned();
        let source = anyhow::anyhow!("it trapped");
        let failed = error_page(&BackendError::Failed { component, source }).await;
        assert!(failed.contains("See the terminal"), "{failed}");
        for page in [not_found, failed] {
            assert!(page.contains("<script></script>"), "{page}");
        }
    }

    proptest! {
        #[test]
        fn the_whole_page_comes_first_whatever_its_chunks(
            page in "[<>/a-eé\"' !-]{0,40}",
            cuts in prop::collection::vec(0usize..200, 0..6),
        ) {
            let bytes = Bytes::from(page.clone());
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut % (bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks = cuts.windows(2).map(|cut| Ok(Frame::data(bytes.slice(cut[0]..cut[1]))));
            let body = appended(streamed(chunks.collect()));
            let collected = body.collect().now_or_never().unwrap().unwrap();
            prop_assert_eq!(text(collected.to_bytes()), page + MARK);
        }

        #[test]
        fn the_size_hint_includes_the_suffix(page in "[<>/a-e !-]{0,40}") {
            let length = u64::try_from(page.len() + MARK.len()).unwrap();
            prop_assert_eq!(appended(full(page)).size_hint().exact(), Some(length));
        }
    }
}
