//! Responses that a component asks the host to hold: streams, and responses that wait for a
//! publication.

mod cursors;
mod inbox;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use grip::{
    Instruct, Item,
    control::KeepAliveMode,
    header::GRIP_LAST,
    hold::HoldMode,
    publish::{ResponseAction, StreamAction},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, Uri};
use spin_runtime::backend::Body;
use tokio::time::{Instant, sleep_until};
use url::Url;

use self::{
    cursors::{Cursors, Disposition},
    inbox::Inbox,
};
use crate::{
    filter::Meta,
    grip_response::{self, GripResponse},
    host::Host,
    request::ClientRequest,
    response,
    runtime::sleep_until_some,
};

/// How often in a row the component may respond with last ids that are older than what was published.
const MAX_STALE_RESPONSES: usize = 5;

/// How many parts of a stream follow each other without a hold. Time does not move meanwhile.
const MAX_PARTS: usize = 1000;

/// Holds a response until it ends.
pub(crate) async fn run(
    host: Arc<Host>,
    request: ClientRequest,
    client: response::Response,
    instruct: Instruct,
    response: Response<Body>,
) {
    let inbox = Arc::<Inbox>::default();
    let hold = Hold {
        cursors: Cursors::new(host.channels.clone(), inbox.clone()),
        host,
        request,
        client,
        inbox,
        instruct: Instruct::default(),
        has_head: false,
        stale_responses: 0,
        parts: 0,
    };
    let client = hold.client.clone();
    let error = hold.run(instruct, response).await.err();
    client.end(error);
}

struct Hold {
    host: Arc<Host>,
    request: ClientRequest,
    client: response::Response,
    cursors: Cursors,
    inbox: Arc<Inbox>,
    instruct: Instruct,
    /// The client has got the head of the response.
    has_head: bool,
    /// The number of responses in a row that were out of date.
    stale_responses: usize,
    /// The number of parts in a row without a hold.
    parts: usize,
}

/// What a hold does next.
enum Step {
    /// Fetches the next link of a stream, or sends the request again.
    Fetch,
    /// Ends the response.
    End,
}

impl Hold {
    async fn run(mut self, instruct: Instruct, response: Response<Body>) -> Result<(), String> {
        let mut next = (instruct, response);
        loop {
            let (instruct, response) = next;
            self.apply(instruct)?;
            let step = match self.instruct.hold {
                Some(HoldMode::Response) if !self.has_head => self.respond(response).await,
                // A response that has begun can only continue.
                _ => {
                    self.append(response).await?;
                    self.continue_stream().await?
                }
            };
            if let Step::End = step {
                return Ok(());
            }
            next = self.fetch().await?;
        }
    }

    /// Waits for a publication, unless the component's response is out of date.
    async fn respond(&mut self, response: Response<Body>) -> Step {
        if self.is_stale() {
            Step::Fetch
        } else {
            self.wait(response).await
        }
    }

    /// Decides how a stream continues after a part.
    async fn continue_stream(&mut self) -> Result<Step, String> {
        if self.instruct.hold.is_none() {
            if self.instruct.next.is_none() {
                return Ok(Step::End);
            }
            self.parts += 1;
            if self.parts > MAX_PARTS {
                let error = format!("more than {MAX_PARTS} parts of a stream without a hold");
                self.host.fail(self.request.uri.path(), &error);
                return Err(error);
            }
            return Ok(Step::Fetch);
        }
        self.parts = 0;
        if self.is_stale() {
            return Ok(Step::Fetch);
        }
        Ok(self.stream().await)
    }

    /// Returns whether a response of the component is out of date, and should be fetched again.
    fn is_stale(&mut self) -> bool {
        let is_stale = self.cursors.is_stale() && self.stale_responses < MAX_STALE_RESPONSES;
        self.stale_responses = if is_stale {
            self.stale_responses + 1
        } else {
            0
        };
        is_stale
    }

    /// Follows new instructions.
    fn apply(&mut self, instruct: Instruct) -> Result<(), String> {
        let meta: Meta = instruct.meta.clone();
        self.cursors
            .replace(&instruct.channels, meta)
            .map_err(|error| error.to_string())?;
        self.instruct = instruct;
        Ok(())
    }

    /// Appends a part of a stream.
    async fn append(&mut self, response: Response<Body>) -> Result<(), String> {
        let (parts, body) = response.into_parts();
        if !self.has_head {
            self.has_head = true;
            self.client.set_head(parts.status, parts.headers);
        } else if !parts.status.is_success() {
            let error = format!("the next part of the stream has status {}", parts.status);
            self.host.fail(self.request.uri.path(), &error);
            return Err(error);
        }
        let result = self.client.append_body(body).await;
        result.map_err(|error| error.to_string())
    }

    /// Fetches the next part of a stream, or sends the request again.
    async fn fetch(&mut self) -> Result<(Instruct, Response<Body>), String> {
        let mut request = self.request.clone();
        if let Some(next) = &self.instruct.next {
            request.uri = resolve(&request.uri, &next.uri)?;
            request.method = Method::GET;
            request.body = Bytes::new();
        }
        let mut headers = HeaderMap::new();
        for value in self.cursors.grip_last() {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.append(HeaderName::from_static(GRIP_LAST), value);
            }
        }
        let GripResponse { instruct, response } =
            grip_response::fetch(&self.host, &request, &headers).await;
        Ok((instruct.unwrap_or_default(), response))
    }

    /// Appends what is published to a stream.
    async fn stream(&mut self) -> Step {
        self.client.hold();
        let link_timeout = self.instruct.next.as_ref().map(|next| next.idle_timeout());
        let keep_alive = self.instruct.keep_alive.clone();
        let interval = keep_alive.as_ref().map(|keep_alive| keep_alive.interval());
        let mut fetch_at = after(link_timeout);
        let mut keep_alive_at = after(interval);
        loop {
            tokio::select! {
                biased;
                item = self.inbox.receive() => match self.content(&item) {
                    Ok(None) => {}
                    Ok(Some(content)) => {
                        self.client.append(&content);
                        fetch_at = after(link_timeout);
                        let mode = keep_alive.as_ref().map(|keep_alive| keep_alive.mode);
                        if mode == Some(KeepAliveMode::Idle) {
                            keep_alive_at = after(interval);
                        }
                    }
                    Err(step) => return step,
                },
                () = sleep_until_some(fetch_at) => return Step::Fetch,
                () = sleep_until_some(keep_alive_at) => {
                    if let Some(keep_alive) = &keep_alive {
                        self.client.append(&keep_alive.content);
                    }
                    keep_alive_at = after(interval);
                }
            }
        }
    }

    /// Returns what an item adds to a stream.
    ///
    /// # Errors
    /// Returns the next step if the item is not content, or cannot be delivered.
    fn content(&mut self, item: &Item) -> Result<Option<Bytes>, Step> {
        let has_next = self.instruct.next.is_some();
        let fetch_or_end = || if has_next { Step::Fetch } else { Step::End };
        let Some(format) = &item.http_stream else {
            return Ok(None);
        };
        match self.cursors.advance(item) {
            Disposition::Ignore => Ok(None),
            Disposition::Gap => Err(fetch_or_end()),
            Disposition::Deliver => match &format.action {
                StreamAction::Send(content) => match self.cursors.rewrite(item, content) {
                    Ok(content) => Ok(Some(content)),
                    Err(error) => {
                        self.host.fail(self.request.uri.path(), error.to_string());
                        Ok(None)
                    }
                },
                StreamAction::Close => Err(Step::End),
                StreamAction::Hint => Err(fetch_or_end()),
            },
        }
    }

    /// Waits until a response is published, or sends the component's own after a while.
    async fn wait(&mut self, response: Response<Body>) -> Step {
        self.client.hold();
        let timeout = Instant::now() + self.instruct.hold_timeout();
        loop {
            let item = tokio::select! {
                biased;
                item = self.inbox.receive() => item,
                () = sleep_until(timeout) => break,
            };
            let Some(format) = &item.http_response else {
                continue;
            };
            match self.cursors.advance(&item) {
                Disposition::Ignore => continue,
                Disposition::Gap => return Step::Fetch,
                Disposition::Deliver => {}
            }
            match &format.action {
                ResponseAction::Hint => return Step::Fetch,
                ResponseAction::Send(response) => {
                    match grip_response::published(response) {
                        Ok(response) => {
                            let (parts, body) = response.into_parts();
                            self.client.set_head(parts.status, parts.headers);
                            self.client.append(&body);
                        }
                        Err(error) => {
                            self.host.fail(self.request.uri.path(), error.to_string());
                            continue;
                        }
                    }
                    return Step::End;
                }
            }
        }
        let (parts, body) = response.into_parts();
        self.client.set_head(parts.status, parts.headers);
        if let Err(error) = self.client.append_body(body).await {
            self.host.fail(self.request.uri.path(), error.to_string());
        }
        Step::End
    }
}

/// Resolves a link against the URI of a request.
fn resolve(base: &Uri, link: &str) -> Result<Uri, String> {
    let invalid = || format!("invalid link {link:?}");
    let base = Url::parse(&format!("http://localhost{base}")).map_err(|_| invalid())?;
    let url = base.join(link).map_err(|_| invalid())?;
    let mut target = url.path().to_owned();
    if let Some(query) = url.query() {
        target.push('?');
        target.push_str(query);
    }
    target.parse().map_err(|_| invalid())
}

fn after(duration: Option<Duration>) -> Option<Instant> {
    duration.map(|duration| Instant::now() + duration)
}
