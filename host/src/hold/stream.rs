//! A held stream: a body that stays open for what is published.

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
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::backoff;
use crate::hold::{
    cursors::Verdict,
    future_body::{self, Outlet},
    grip_response::{GripResponse, is_coded},
    held_request::HeldRequest,
    inbox::Found,
};
use crate::pubsub::{filter::LastIds, publication::Publication};
use spin_runtime::backend::{Body, BodyError};

/// What goes out in one piece when many small publications come at once.
const PIECE: usize = 64 * 1024;

/// A timer that is not set.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

struct Stream {
    hold: HeldRequest,
    outlet: Outlet,
    stop: CancellationToken,
    /// When the next keep-alive is due.
    keep_alive: Option<Instant>,
    /// When the next part is fetched for quiet.
    quiet: Option<Instant>,
    /// The channels that something came on since the time of quiet began.
    active: HashSet<String>,
    /// Something was taken out of the inbox, or never into it, that the next part has to have.
    lost: bool,
}

/// Why the connection is cut off instead of the body being ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the backend's answer ended early: {0}")]
    Backend(BodyError),
    #[error("the client does not keep up")]
    Slow,
}

/// What comes after a while of holding.
enum Next {
    /// The next part.
    Fetch,
    End,
}

/// The head of the backend's answer, and a body that goes on after the answer's own;
/// `behind`: with the next part at once.
pub(super) fn answer(hold: HeldRequest, response: Response<Body>, behind: bool) -> Response<Body> {
    let (mut parts, first) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    let body = future_body::body(|outlet| {
        let stop = hold.place.stop();
        let stream = Box::new(Stream {
            hold,
            outlet,
            stop,
            keep_alive: None,
            quiet: None,
            active: HashSet::new(),
            lost: false,
        });
        async move { stream.run(first, behind).await.map_err(BodyError::from) }
    });
    Response::from_parts(parts, body)
}

impl Stream {
    async fn run(mut self: Box<Self>, first: Body, behind: bool) -> Result<(), Broken> {
        self.begin();
        Box::pin(self.forward(first)).await?;
        let mut next = match behind || self.hold.instruct.hold.is_none() {
            true => Next::Fetch,
            false => self.listen().await?,
        };
        while let Next::Fetch = next {
            // Apart, so that a stream is small while it only listens.
            next = match Box::pin(self.fetch()).await? {
                Next::Fetch if self.hold.instruct.hold.is_some() => self.listen().await?,
                next => next,
            };
        }
        self.hold.over = true;
        Ok(())
    }

    /// Sets the timers for what is in force now. A keep-alive stays due when it was: a part
    /// without content keeps nobody alive.
    fn begin(&mut self) {
        let now = Instant::now();
        let instruct = &self.hold.instruct;
        let keep_alive = instruct.keep_alive.as_ref();
        let due = self.keep_alive;
        self.keep_alive =
            keep_alive.map(|keep_alive| due.unwrap_or_else(|| now + keep_alive.interval()));
        self.quiet = instruct.next.as_ref().map(|next| now + next.quiet());
        self.active.clear();
    }

    /// Sends a body of the backend.
    async fn forward(&mut self, mut body: Body) -> Result<(), Broken> {
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.map_err(Broken::Backend)?.into_data() {
                self.send(data).await;
            }
        }
        Ok(())
    }

    async fn send(&mut self, bytes: Bytes) {
        self.outlet.put(bytes).await;
        if let Some(keep_alive) = &self.hold.instruct.keep_alive
            && keep_alive.mode == KeepAliveMode::Idle
        {
            self.keep_alive = Some(Instant::now() + keep_alive.interval());
        }
    }

    /// Sends what is published.
    async fn listen(&mut self) -> Result<Next, Broken> {
        let inbox = self.hold.inbox.clone();
        let stop = self.stop.clone();
        let stopped = stop.cancelled();
        // Not set anew for each publication: when it goes off too early, it goes on sleeping.
        let alarm = sleep(NEVER);
        tokio::pin!(stopped, alarm);
        loop {
            let due = self.keep_alive.into_iter().chain(self.quiet).min();
            if let Some(due) = due
                && due < alarm.deadline()
            {
                alarm.as_mut().reset(due);
            }
            tokio::select! {
                biased;
                found = inbox.find() => match found {
                    Found::Published(publications) => {
                        if let Some(next) = self.publish(publications).await {
                            return Ok(next);
                        }
                    }
                    Found::Overflow => {
                        if self.hold.instruct.next.is_some() {
                            self.lost = true;
                            return Ok(Next::Fetch);
                        }
                        self.hold.warn("the client does not keep up: cut off");
                        return Err(Broken::Slow);
                    }
                },
                () = &mut stopped => return Ok(Next::End),
                () = &mut alarm => {
                    let now = Instant::now();
                    alarm.as_mut().reset(now + NEVER);
                    if self.quiet.is_some_and(|quiet| quiet <= now) {
                        return Ok(Next::Fetch);
                    }
                    self.keep_alive(now).await;
                }
            }
        }
    }

    async fn keep_alive(&mut self, now: Instant) {
        let Some(keep_alive) = &self.hold.instruct.keep_alive else {
            return;
        };
        if self.keep_alive.is_some_and(|due| due <= now) {
            let (content, interval) = (keep_alive.content.clone(), keep_alive.interval());
            self.keep_alive = Some(now + interval);
            self.outlet.put(content).await;
        }
    }

    /// Sends publications; says what comes then, when it is not more of them.
    async fn publish(&mut self, publications: VecDeque<Arc<Publication>>) -> Option<Next> {
        let mut pieces = Vec::new();
        let mut next = None;
        for publication in publications {
            match self.weigh(&publication) {
                Ok(Some(content)) => pieces.push(content),
                Ok(None) => {}
                Err(then) => {
                    // What is there besides is in the next part too.
                    self.hold.inbox.clear();
                    self.lost = true;
                    next = Some(then);
                    break;
                }
            }
        }
        for piece in join(pieces) {
            self.send(piece).await;
        }
        next
    }

    /// What a publication adds to the stream.
    fn weigh(&mut self, publication: &Publication) -> Result<Option<Bytes>, Next> {
        let Some(form) = &publication.stream else {
            return Ok(None);
        };
        let channel = &publication.channel;
        let next = self.hold.instruct.next.is_some();
        let filters = match self.hold.follow.judge(publication, &form.filters) {
            Verdict::Skip => return Ok(None),
            Verdict::Missed if next => return Err(Next::Fetch),
            Verdict::Missed => {
                // A client that comes again gets all of it.
                self.hold.warn(&format!(
                    "something was missed on {channel:?}, and there is no link to the next part"
                ));
                return Err(Next::End);
            }
            Verdict::Unsuitable => {
                self.hold.warn(&format!(
                    "what is published on {channel:?} is for other content filters"
                ));
                return Err(Next::End);
            }
            Verdict::Use(filters) => filters.clone(),
        };
        match &form.action {
            StreamAction::Send(content) => {
                let content = filters.rewrite(content.clone(), &self.hold.follow.ids);
                let content = content.map_err(|error| {
                    self.hold.warn(&format!("on {channel:?}: {error}"));
                    Next::End
                })?;
                self.note_activity(channel);
                Ok(Some(content))
            }
            StreamAction::Close => Err(Next::End),
            StreamAction::Hint if next => Err(Next::Fetch),
            StreamAction::Hint => Ok(None),
        }
    }

    /// The time of quiet begins anew when something came on every channel.
    fn note_activity(&mut self, channel: &str) {
        let Some(next) = &self.hold.instruct.next else {
            return;
        };
        if !self.active.contains(channel) {
            self.active.insert(channel.to_owned());
        }
        if self.active.len() == self.hold.follow.len() {
            self.active.clear();
            self.quiet = Some(Instant::now() + next.quiet());
        }
    }

    /// Fetches and sends the next part. [`Next::Fetch`] with a hold in force means to listen.
    async fn fetch(&mut self) -> Result<Next, Broken> {
        // What the backend said the last time, when something else was published since.
        let mut doubted: Option<LastIds> = None;
        loop {
            let next = self.hold.instruct.next.as_ref();
            let Some(link) = next.map(|next| next.uri.clone()) else {
                return Ok(Next::End);
            };
            let Some(part) = self.ask(&link).await else {
                return Ok(Next::End);
            };
            self.hold.request.move_to(&link);
            let (instruct, response) = (part.instruct.unwrap_or_default(), part.response);
            if instruct.hold == Some(HoldMode::Response) {
                self.hold
                    .warn("the next part of a stream asks for a held response");
                return Ok(Next::End);
            }
            let (holds, follows) = (instruct.hold.is_some(), instruct.next.is_some());
            // On the new channels before the rest of the part, in which time something may come.
            let joined = match self.hold.take_up(instruct) {
                Ok(joined) => joined,
                Err(problem) => {
                    self.hold.warn(&problem);
                    return Ok(Next::End);
                }
            };
            self.hold.follow.drop_known();
            let mut unknown = self.hold.follow.conflicts(&self.hold.services.channels);
            if !mem::take(&mut self.lost) {
                // On the others, what the backend did not know waits.
                unknown.retain(|channel| joined.contains(channel));
            }
            self.forward(response.into_body()).await?;
            if !holds && !follows {
                return Ok(Next::End);
            }
            self.begin();
            if !holds || unknown.is_empty() {
                return Ok(Next::Fetch);
            }
            if doubted.as_ref() == Some(&self.hold.follow.ids) {
                self.hold.insist(&unknown);
                return Ok(Next::Fetch);
            }
            // Without a link a client that comes again gets all of it.
            doubted = Some(self.hold.follow.ids.clone());
        }
    }

    /// The answer to the link; `None` when there is none, or the host stops.
    async fn ask(&mut self, link: &str) -> Option<GripResponse> {
        for retry in 0..=backoff::RETRIES {
            let signer = &self.hold.services.signer;
            let follow = &self.hold.follow;
            let request = match self
                .hold
                .request
                .follow(Method::GET, link, signer, &follow.ids)
            {
                Ok(request) => request,
                Err(error) => {
                    self.hold.warn(&error.to_string());
                    return None;
                }
            };
            let backend = self.hold.services.backend.clone();
            let answer = async move {
                match backend.call(request).await {
                    Ok(response) if is_coded(&response) => Err("it has a Content-Encoding".into()),
                    Ok(response) if response.status().is_success() => {
                        let part = GripResponse::read(response).await;
                        part.map_err(|problem| problem.to_string())
                    }
                    Ok(response) => Err(format!("the status is {}", response.status())),
                    Err(error) => Err(error.to_string()),
                }
            };
            let problem = match self.beside(answer).await? {
                Ok(part) => return Some(part),
                Err(problem) => problem,
            };
            self.hold
                .warn(&format!("the next part at {link}: {problem}"));
            if retry < backoff::RETRIES {
                self.beside(sleep(backoff::delay(retry))).await?;
            }
        }
        None
    }

    /// Waits, while the client is kept alive; `None` when the host stops.
    async fn beside<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        let stop = self.stop.clone();
        tokio::pin!(future);
        loop {
            let due = self.keep_alive.unwrap_or_else(|| Instant::now() + NEVER);
            tokio::select! {
                biased;
                done = &mut future => return Some(done),
                () = stop.cancelled() => return None,
                () = tokio::time::sleep_until(due) => self.keep_alive(Instant::now()).await,
            }
        }
    }
}

/// Joins small pieces, so that they go out in one write.
fn join(pieces: Vec<Bytes>) -> Vec<Bytes> {
    let mut joined = Vec::with_capacity(1);
    let mut run: Vec<Bytes> = Vec::new();
    let mut length = 0;
    let mut close = |run: &mut Vec<Bytes>| match run.len() {
        0 => {}
        1 => joined.extend(run.pop()),
        _ => {
            let mut all = BytesMut::with_capacity(run.iter().map(Bytes::len).sum());
            run.drain(..)
                .for_each(|piece| all.extend_from_slice(&piece));
            joined.push(all.freeze());
        }
    };
    for piece in pieces {
        if length + piece.len() > PIECE {
            close(&mut run);
            length = 0;
        }
        length += piece.len();
        run.push(piece);
    }
    close(&mut run);
    joined
}
