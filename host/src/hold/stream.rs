//! Held streams: a body that stays open, to which published content is appended.
//!
//! A stream alternates between listening for publications and fetching the backend's next
//! response, which it does when the stream was quiet for a while or something was missed. Without
//! a next link it ends then, and the client has to request it again.

use std::{
    collections::{HashSet, VecDeque},
    future::Future,
    mem,
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use grip::{control::KeepAliveMode, hold::HoldMode, publish::StreamAction};
use http::{Method, Response, header};
use http_body_util::BodyExt;
use spin_runtime::backend::{Body, BodyError};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    backoff,
    config::Limits,
    hold::{
        cursors::Disposition,
        future_body::{self, BodySender},
        grip_response::{GripResponse, has_content_encoding},
        held_request::HeldRequest,
        inbox::Received,
    },
    pubsub::{filter::LastIds, publication::Publication},
};

/// Publications that arrive together are sent in chunks of up to this many bytes.
const MAX_CHUNK: usize = 64 * 1024;

const NEXT_PART_ATTEMPTS: u32 = Limits::DEFAULT.next_part_attempts;

/// The duration of a timer that is not set.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// The state of a stream while its body is being read.
struct Stream {
    held: HeldRequest,
    sender: BodySender,
    stop: CancellationToken,
    /// When the next keep-alive is due.
    keep_alive_at: Option<Instant>,
    /// When the next response is fetched if the stream stays quiet.
    fetch_at: Option<Instant>,
    /// The channels with content since `fetch_at` was last set.
    active_channels: HashSet<String>,
    progress: Progress,
    /// Whether publications were dropped, which the next response must then contain.
    dropped: bool,
}

/// The pause before a next link is fetched that makes no progress.
const STUCK_PAUSE: Duration = Duration::from_secs(1);

/// The links that are remembered to detect that they lead to each other.
const REMEMBERED_LINKS: usize = 16;

/// Detects next links that are followed at once and lead nowhere.
#[derive(Default)]
struct Progress {
    /// The last links that were fetched, without a hold in between.
    links: VecDeque<String>,
    /// Whether the last response had no content.
    was_empty: bool,
}

impl Progress {
    /// Records that `link` was fetched. Returns whether its response leads to a link that was
    /// fetched before, or was one of several without content.
    fn record(&mut self, link: String, has_content: bool, next: Option<&str>) -> bool {
        if self.links.len() == REMEMBERED_LINKS {
            self.links.pop_front();
        }
        self.links.push_back(link);
        let was_empty = std::mem::replace(&mut self.was_empty, !has_content);
        (was_empty && !has_content) || self.links.iter().any(|link| Some(&**link) == next)
    }
}

/// What a stream does next.
enum Step {
    /// Waits for publications.
    Listen,
    /// Fetches the backend's next response.
    Fetch,
    End,
}

/// Why a stream breaks off, instead of ending its body.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("backend response ended early: {0}")]
    Backend(BodyError),
    #[error("client is too slow")]
    SlowClient,
}

/// Returns the head of the backend's response, with a body that continues after the backend's.
///
/// If the response is stale, the next one is fetched at once.
pub(super) fn respond(
    held: HeldRequest,
    response: Response<Body>,
    is_stale: bool,
) -> Response<Body> {
    let (mut parts, first) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    let body = future_body::from_future(|sender| {
        let stop = held.guard.stop();
        let stream = Box::new(Stream {
            held,
            sender,
            stop,
            keep_alive_at: None,
            fetch_at: None,
            active_channels: HashSet::new(),
            progress: Progress::default(),
            dropped: false,
        });
        async move { Ok(stream.run(first, is_stale).await?) }
    });
    Response::from_parts(parts, body)
}

impl Stream {
    async fn run(mut self: Box<Self>, first: Body, is_stale: bool) -> Result<(), StreamError> {
        self.reset_timers();
        // Boxed, like fetching, to keep the future of a listening stream small.
        Box::pin(self.send_body(first)).await?;
        let mut step = if is_stale || self.held.instruct.hold.is_none() {
            Step::Fetch
        } else {
            Step::Listen
        };
        loop {
            step = match step {
                Step::Listen => self.listen().await?,
                Step::Fetch => Box::pin(self.fetch()).await?,
                Step::End => break,
            };
        }
        self.held.finished = true;
        Ok(())
    }

    /// Sets the timers for the current instructions.
    ///
    /// A keep-alive that is already due at some time stays so: a response without content does not
    /// count as activity.
    fn reset_timers(&mut self) {
        let now = Instant::now();
        let instruct = &self.held.instruct;
        let due = self.keep_alive_at;
        self.keep_alive_at = instruct
            .keep_alive
            .as_ref()
            .map(|keep_alive| due.unwrap_or_else(|| now + keep_alive.interval()));
        self.fetch_at = instruct.next.as_ref().map(|next| now + next.idle_timeout());
        self.active_channels.clear();
    }

    /// Sends a body of the backend, and returns whether it had content.
    async fn send_body(&mut self, mut body: Body) -> Result<bool, StreamError> {
        let mut has_content = false;
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.map_err(StreamError::Backend)?.into_data() {
                has_content |= !data.is_empty();
                self.send(data).await;
            }
        }
        Ok(has_content)
    }

    /// Sends content, which postpones an idle keep-alive.
    async fn send(&mut self, content: Bytes) {
        self.sender.send(content).await;
        if let Some(keep_alive) = &self.held.instruct.keep_alive
            && keep_alive.mode == KeepAliveMode::Idle
        {
            self.keep_alive_at = Some(Instant::now() + keep_alive.interval());
        }
    }

    /// Sends publications and keep-alives until something else has to be done.
    async fn listen(&mut self) -> Result<Step, StreamError> {
        let inbox = self.held.inbox.clone();
        let stop = self.stop.clone();
        let stopped = stop.cancelled();
        // Publications postpone what is due, but do not reset the timer: it may fire too early and
        // is then set again.
        let timer = sleep(NEVER);
        tokio::pin!(stopped, timer);
        loop {
            let due = self.keep_alive_at.into_iter().chain(self.fetch_at).min();
            if let Some(due) = due
                && due < timer.deadline()
            {
                timer.as_mut().reset(due);
            }
            tokio::select! {
                biased;
                received = inbox.recv() => match received {
                    Received::Publications(publications) => {
                        match self.deliver(publications).await {
                            Step::Listen => {}
                            step => return Ok(step),
                        }
                    }
                    Received::Overflow if self.held.instruct.next.is_some() => {
                        self.dropped = true;
                        return Ok(Step::Fetch);
                    }
                    Received::Overflow => {
                        let route = self.held.request.path();
                        warn!(route, "closing a stream with a slow client");
                        return Err(StreamError::SlowClient);
                    }
                },
                () = &mut stopped => return Ok(Step::End),
                () = &mut timer => {
                    let now = Instant::now();
                    timer.as_mut().reset(now + NEVER);
                    if self.fetch_at.is_some_and(|fetch_at| fetch_at <= now) {
                        return Ok(Step::Fetch);
                    }
                    self.send_keep_alive(now).await;
                }
            }
        }
    }

    /// Sends a keep-alive if one is due.
    async fn send_keep_alive(&mut self, now: Instant) {
        let Some(keep_alive) = &self.held.instruct.keep_alive else {
            return;
        };
        if self.keep_alive_at.is_some_and(|due| due <= now) {
            let (content, interval) = (keep_alive.content.clone(), keep_alive.interval());
            self.keep_alive_at = Some(now + interval);
            self.sender.send(content).await;
        }
    }

    /// Sends the content of publications.
    async fn deliver(&mut self, publications: VecDeque<Arc<Publication>>) -> Step {
        let mut contents = Vec::new();
        let mut step = Step::Listen;
        for publication in publications {
            match self.content(&publication) {
                Ok(Some(content)) => contents.push(content),
                Ok(None) => {}
                Err(next) => {
                    // The next response contains the rest of the inbox as well.
                    self.held.inbox.clear();
                    self.dropped = true;
                    step = next;
                    break;
                }
            }
        }
        for chunk in coalesce(contents) {
            self.send(chunk).await;
        }
        step
    }

    /// Returns what a publication adds to the stream.
    ///
    /// # Errors
    /// Returns the next step if the publication cannot be delivered, or is not content.
    fn content(&mut self, publication: &Publication) -> Result<Option<Bytes>, Step> {
        let Some(format) = &publication.stream else {
            return Ok(None);
        };
        let (route, channel) = (self.held.request.path(), &publication.channel);
        let has_next = self.held.instruct.next.is_some();
        let filters = match self.held.cursors.advance(publication, &format.filters) {
            Disposition::Ignore => return Ok(None),
            Disposition::Gap if has_next => return Err(Step::Fetch),
            Disposition::Gap => {
                // The client can only catch up with a new request.
                warn!(
                    route,
                    channel, "publication missed, ending a stream without a next link"
                );
                return Err(Step::End);
            }
            Disposition::FilterMismatch => {
                warn!(route, channel, "publication requires other content filters");
                return Err(Step::End);
            }
            Disposition::Deliver(filters) => filters.clone(),
        };
        match &format.action {
            StreamAction::Send(content) => {
                let content = filters.rewrite(content.clone(), &self.held.cursors.ids);
                let content = content.map_err(|error| {
                    warn!(route, channel, %error, "content filter failed");
                    Step::End
                })?;
                self.record_activity(channel);
                Ok(Some(content))
            }
            StreamAction::Close => Err(Step::End),
            StreamAction::Hint if has_next => Err(Step::Fetch),
            StreamAction::Hint => Ok(None),
        }
    }

    /// Notes content on a channel. Once all channels had some, the next fetch is postponed.
    fn record_activity(&mut self, channel: &str) {
        let Some(next) = &self.held.instruct.next else {
            return;
        };
        if !self.active_channels.contains(channel) {
            self.active_channels.insert(channel.to_owned());
        }
        if self.active_channels.len() == self.held.cursors.len() {
            self.active_channels.clear();
            self.fetch_at = Some(Instant::now() + next.idle_timeout());
        }
    }

    /// Fetches and sends the backend's next response, again while it is stale.
    async fn fetch(&mut self) -> Result<Step, StreamError> {
        // The last ids of the previous response, if it was stale.
        let mut stale_ids: Option<LastIds> = None;
        loop {
            let next = self.held.instruct.next.as_ref();
            let Some(link) = next.map(|next| next.uri.clone()) else {
                return Ok(Step::End);
            };
            let Some(grip_response) = self.fetch_with_retries(&link).await else {
                return Ok(Step::End);
            };
            self.held.request.set_base(&link);
            let GripResponse { instruct, response } = grip_response;
            let instruct = instruct.unwrap_or_default();
            let route = self.held.request.path();
            if instruct.hold == Some(HoldMode::Response) {
                warn!(
                    route,
                    link, "next link of a stream asks for a held response"
                );
                return Ok(Step::End);
            }
            let (has_hold, has_next) = (instruct.hold.is_some(), instruct.next.is_some());
            // Subscribe before sending the body, which may take a while.
            let joined = match self.held.apply(instruct) {
                Ok(joined) => joined,
                Err(error) => {
                    let error = format!("{error:#}");
                    let route = self.held.request.path();
                    warn!(route, link, error, "invalid GRIP instructions");
                    return Ok(Step::End);
                }
            };
            self.held.confirmed().await;
            self.held.cursors.drop_seen();
            let channels = &self.held.services.channels;
            let mut stale_channels = self.held.cursors.stale_channels(channels);
            if !mem::take(&mut self.dropped) {
                // On the other channels the inbox has everything that the response lacks.
                stale_channels.retain(|channel| joined.contains(channel));
            }
            let has_content = self.send_body(response.into_body()).await?;
            if !has_hold && !has_next {
                return Ok(Step::End);
            }
            self.reset_timers();
            if !has_hold {
                let next = self
                    .held
                    .instruct
                    .next
                    .as_ref()
                    .map(|next| next.uri.as_str());
                let is_stuck = self.progress.record(link, has_content, next);
                let pause = sleep(STUCK_PAUSE);
                if is_stuck && self.keep_alive_during(pause).await.is_none() {
                    return Ok(Step::End);
                }
                return Ok(Step::Fetch);
            }
            self.progress = Progress::default();
            if stale_channels.is_empty() {
                return Ok(Step::Listen);
            }
            if stale_ids.as_ref() == Some(&self.held.cursors.ids) {
                // The backend has confirmed these ids, so the last id of the channel is wrong.
                self.held.forget_last_ids(&stale_channels);
                return Ok(Step::Listen);
            }
            // Without a next link the stream ends here, and the client catches up with a new request.
            stale_ids = Some(self.held.cursors.ids.clone());
        }
    }

    /// Fetches a response of the backend, with retries.
    ///
    /// Returns `None` if the backend keeps failing or the host stops.
    async fn fetch_with_retries(&mut self, link: &str) -> Option<GripResponse> {
        for retry in 0..NEXT_PART_ATTEMPTS {
            let signer = &self.held.services.signer;
            let ids = &self.held.cursors.ids;
            let request = match self
                .held
                .request
                .link_request(Method::GET, link, signer, ids)
            {
                Ok(request) => request,
                Err(error) => {
                    warn!(route = self.held.request.path(), %error, "invalid next link");
                    return None;
                }
            };
            let backend = self.held.services.backend.clone();
            let response = async move {
                match backend.call(request).await {
                    Ok(response) if has_content_encoding(&response) => {
                        Err("response has a Content-Encoding".into())
                    }
                    Ok(response) if response.status().is_success() => GripResponse::parse(response)
                        .await
                        .map_err(|error| error.to_string()),
                    Ok(response) => Err(format!("response has status {}", response.status())),
                    Err(error) => Err(error.to_string()),
                }
            };
            let error = match self.keep_alive_during(response).await? {
                Ok(response) => return Some(response),
                Err(error) => error,
            };
            let route = self.held.request.path();
            warn!(route, link, error, "failed to fetch the next link");
            if retry + 1 < NEXT_PART_ATTEMPTS {
                self.keep_alive_during(sleep(backoff::delay(retry, rand::random::<u64>())))
                    .await?;
            }
        }
        None
    }

    /// Sends keep-alives while a future runs. Returns `None` if the host stops.
    async fn keep_alive_during<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        let stop = self.stop.clone();
        tokio::pin!(future);
        loop {
            let due = self.keep_alive_at.unwrap_or_else(|| Instant::now() + NEVER);
            tokio::select! {
                biased;
                output = &mut future => return Some(output),
                () = stop.cancelled() => return None,
                () = sleep_until(due) => self.send_keep_alive(Instant::now()).await,
            }
        }
    }
}

/// Joins small contents into chunks, so that they are sent with fewer writes.
fn coalesce(contents: Vec<Bytes>) -> Vec<Bytes> {
    let mut chunks = Vec::with_capacity(1);
    let mut pending: Vec<Bytes> = Vec::new();
    let mut length = 0;
    let mut flush = |pending: &mut Vec<Bytes>| match pending.len() {
        0 => {}
        // A single content is not copied.
        1 => chunks.extend(pending.pop()),
        _ => {
            let mut chunk = BytesMut::with_capacity(pending.iter().map(Bytes::len).sum());
            pending
                .drain(..)
                .for_each(|content| chunk.extend_from_slice(&content));
            chunks.push(chunk.freeze());
        }
    };
    for content in contents {
        if length + content.len() > MAX_CHUNK {
            flush(&mut pending);
            length = 0;
        }
        length += content.len();
        pending.push(content);
    }
    flush(&mut pending);
    chunks
}
