//! Live reload: tells open pages what to load again and what is wrong, with `--watch` only.
//!
//! Pages get a script of the host's own, which listens to server-sent events of the host's own.
//! Each event is the whole state, so there is no queue that could overflow and nothing to catch up
//! with: a page that missed ten changes has missed nothing.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    dev::inject::Injected,
    http::error_response::{BackendFailure, text_response},
};
use spin_runtime::backend::{Body, full};

/// Where pages listen.
const EVENTS: &str = "/.socket-host/reload";
/// Where their script is.
const SCRIPT: &str = "/.socket-host/reload.js";
/// Pages that may listen at once.
const MOST_PAGES: usize = 256;
/// How soon a browser asks again when the host has been away.
const RETRY: &str = "retry: 250\n\n";
/// How often a silent stream shows life, so that either side notices when the other is gone.
const ALIVE: Duration = Duration::from_secs(15);

/// See the module's words.
pub(crate) struct Reload {
    state: watch::Sender<State>,
    places: Arc<Semaphore>,
    /// Ends the streams.
    stop: CancellationToken,
}

/// What pages are told.
#[derive(Clone, Debug)]
struct State {
    /// Of this start of the host: pages of an earlier one load again.
    start: Uuid,
    /// How often the application has been exchanged.
    pages: u64,
    /// How often style sheets alone have been.
    styles: u64,
    problems: Vec<Problem>,
}

/// Something that keeps the application from being what its files say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// What is wrong, in a line.
    pub(crate) title: String,
    /// The compiler's words, with a terminal's colours; or nothing.
    pub(crate) text: String,
}

/// What pages are to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum News {
    /// Nothing beyond showing the problems there are.
    #[default]
    Nothing,
    /// To take the style sheets again, in place.
    Styles,
    /// To load again.
    Pages,
}

impl Reload {
    /// For a host that ends with `stop`.
    pub(crate) fn new(stop: CancellationToken) -> Self {
        let (state, _) = watch::channel(State {
            start: Uuid::new_v4(),
            pages: 0,
            styles: 0,
            problems: Vec::new(),
        });
        Self {
            state,
            places: Arc::new(Semaphore::new(MOST_PAGES)),
            stop,
        }
    }

    /// Tells all pages the news, and what is wrong from now on.
    pub(crate) fn tell(&self, news: News, problems: Vec<Problem>) {
        self.state.send_if_modified(|state| {
            let is_news = news != News::Nothing || state.problems != problems;
            match news {
                News::Nothing => {}
                News::Styles => state.styles += 1,
                News::Pages => state.pages += 1,
            }
            state.problems = problems;
            is_news
        });
    }

    /// Answers requests for the host's own paths.
    pub(crate) fn answer<B>(&self, request: &Request<B>) -> Option<Response<Body>> {
        let path = request.uri().path();
        if path != EVENTS && path != SCRIPT {
            return None;
        }
        if request.method() != Method::GET {
            let mut refusal =
                text_response(StatusCode::METHOD_NOT_ALLOWED, "the method here is GET");
            set(refusal.headers_mut(), header::ALLOW, "GET");
            return Some(refusal);
        }
        // Compilers quote what they compile, which is no other site's affair.
        let site = request.headers().get("sec-fetch-site");
        if site.is_some_and(|site| site != "same-origin" && site != "none") {
            return Some(text_response(
                StatusCode::FORBIDDEN,
                "only for pages of this host",
            ));
        }
        Some(match path {
            EVENTS => self.events(),
            _ => script(),
        })
    }

    /// Prepares a request, and gives what is to be put into the answer if it is for a page.
    pub(crate) fn page<B>(&self, request: &mut Request<B>) -> Option<Page> {
        // To compress takes code that was compiled in a hurry longer than to send takes here; and
        // nothing can be put into a page that is compressed.
        request.headers_mut().remove(header::ACCEPT_ENCODING);
        if !is_for_page(request) {
            return None;
        }
        // A whole page: nothing can be put into another.
        for name in [
            header::IF_NONE_MATCH,
            header::IF_MODIFIED_SINCE,
            header::RANGE,
        ] {
            request.headers_mut().remove(name);
        }
        let state = self.state.borrow();
        let State {
            start,
            pages,
            styles,
            ..
        } = &*state;
        // Numbers and a UUID need no escapes.
        Some(Page(format!(
            r#"<script src="{SCRIPT}" data-state="{start} {pages} {styles}" async></script>"#
        )))
    }

    fn events(&self) -> Response<Body> {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            return text_response(StatusCode::SERVICE_UNAVAILABLE, "too many pages listen");
        };
        let mut state = self.state.subscribe();
        state.mark_changed();
        let listener = Listener {
            first: true,
            state,
            stop: self.stop.clone(),
            _place: place,
        };
        let events = stream::unfold(listener, |mut listener| async {
            let event = listener.next().await?;
            Some((Ok::<_, Infallible>(Frame::data(event)), listener))
        });
        let events = StreamBody::new(events).map_err(|never| match never {});
        let mut response = Response::new(events.boxed_unsync());
        let headers = response.headers_mut();
        set(headers, header::CONTENT_TYPE, "text/event-stream");
        set(headers, header::CACHE_CONTROL, "no-store");
        set(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        response
    }
}

/// A page that listens.
struct Listener {
    first: bool,
    state: watch::Receiver<State>,
    stop: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Listener {
    /// The next piece of the stream; `None` when the host stops.
    async fn next(&mut self) -> Option<Bytes> {
        if std::mem::take(&mut self.first) {
            return Some(Bytes::from_static(RETRY.as_bytes()));
        }
        tokio::select! {
            changed = self.state.changed() => {
                changed.ok()?;
                let state = self.state.borrow_and_update();
                // JSON has no line breaks outside of its escapes.
                Some(format!("data: {}\n\n", state.json()).into())
            }
            () = tokio::time::sleep(ALIVE) => Some(Bytes::from_static(b":\n\n")),
            () = self.stop.cancelled() => None,
        }
    }
}

impl State {
    fn json(&self) -> Value {
        let problems = self.problems.iter();
        let problems =
            problems.map(|Problem { title, text }| json!({"title": title, "text": text}));
        json!({
            "start": self.start.to_string(),
            "pages": self.pages,
            "styles": self.styles,
            "problems": problems.collect::<Vec<_>>(),
        })
    }
}

fn script() -> Response<Body> {
    let mut response = Response::new(full(include_str!("reload.js")));
    let headers = response.headers_mut();
    set(
        headers,
        header::CONTENT_TYPE,
        "text/javascript; charset=utf-8",
    );
    set(headers, header::CACHE_CONTROL, "no-cache");
    set(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    response
}

/// Whether a request is a browser's for a page of its own, not for a piece of one.
fn is_for_page<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let accepts = headers.get_all(header::ACCEPT).iter();
    let mut accepts = accepts.filter_map(|value| value.to_str().ok());
    let is_document = headers.get("sec-fetch-dest");
    matches!(*request.method(), Method::GET | Method::POST)
        && accepts.any(|types| types.to_ascii_lowercase().contains("text/html"))
        && is_document.is_none_or(|destination| destination == "document")
}

/// What a page gets to listen with.
pub(crate) struct Page(String);

impl Page {
    /// Puts the script into an answer that is a page; another passes as it is.
    pub(crate) fn inject(self, mut response: Response<Body>) -> Response<Body> {
        if response
            .extensions_mut()
            .remove::<BackendFailure>()
            .is_some()
        {
            return self.of_failure(response);
        }
        let headers = response.headers();
        let is_html = headers.get(header::CONTENT_TYPE).is_some_and(|value| {
            let value = value.to_str().unwrap_or_default().to_ascii_lowercase();
            value
                .split(';')
                .next()
                .is_some_and(|kind| kind.trim() == "text/html")
                && !value.contains("utf-16")
        });
        let is_plain = headers
            .get_all(header::CONTENT_ENCODING)
            .iter()
            .all(|coding| coding == "identity");
        let status = response.status();
        let has_body = !matches!(
            status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::PARTIAL_CONTENT
        );
        if !is_html || !is_plain || !has_body {
            return response;
        }
        let (mut head, body) = response.into_parts();
        let headers = &mut head.headers;
        let length = headers.get(header::CONTENT_LENGTH).map(|length| {
            let length: Option<u64> = length.to_str().ok()?.trim().parse().ok();
            length?.checked_add(u64::try_from(self.0.len()).ok()?)
        });
        match length {
            Some(Some(length)) => drop(headers.insert(header::CONTENT_LENGTH, length.into())),
            Some(None) => drop(headers.remove(header::CONTENT_LENGTH)),
            None => {}
        }
        // What was true of the page without the script.
        for name in [
            "etag",
            "last-modified",
            "accept-ranges",
            "content-md5",
            "content-digest",
            "digest",
        ] {
            headers.remove(name);
        }
        // Nor is it to be met again when nobody watches.
        set(headers, header::CACHE_CONTROL, "no-store");
        let body = Injected::new(body, self.0.into());
        Response::from_parts(head, body.boxed_unsync())
    }

    /// Makes a page of the host's own words where the application has no answer: it loads again
    /// when there may be one.
    fn of_failure(self, response: Response<Body>) -> Response<Body> {
        let status = response.status();
        // Nothing is logged of what was not asked of anybody.
        let why = match status {
            StatusCode::NOT_FOUND => "The application has no route for this path.",
            _ => "The application gave no answer; the terminal says why.",
        };
        let page = format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{status}</title></head>\
             <body><h1>{status}</h1><p>{why}</p></body></html>"
        );
        let mut response = response.map(|_| full(page));
        set(
            response.headers_mut(),
            header::CONTENT_TYPE,
            "text/html; charset=utf-8",
        );
        self.inject(response)
    }
}

fn set(headers: &mut HeaderMap, name: header::HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}

#[cfg(test)]
mod tests {
    use spin_runtime::backend::BackendError;

    use super::*;
    use crate::http::error_response::backend_error_response;

    #[tokio::test]
    async fn a_page_says_why_there_is_no_answer() {
        let told = async |error: &BackendError| {
            let page = Page("<script></script>".to_owned()).inject(backend_error_response(error));
            let body = page.into_body().collect().await.expect("a page");
            String::from_utf8(body.to_bytes().into()).expect("text")
        };
        let path = "/nowhere".to_owned();
        let nowhere = told(&BackendError::NoRoute { path }).await;
        assert!(nowhere.contains("no route for this path"), "{nowhere}");
        assert!(!nowhere.contains("terminal"), "{nowhere}");
        let component = "page".to_owned();
        let source = anyhow::anyhow!("it trapped");
        let failed = told(&BackendError::Failed { component, source }).await;
        assert!(failed.contains("the terminal says why"), "{failed}");
        for page in [nowhere, failed] {
            assert!(page.contains("<script></script>"), "{page}");
        }
    }
}
