//! Who a client is: the user that the backend has bound it to, and the channels of which it is a member.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Sleep, sleep};

use crate::state::{members::MemberGuard, users::UserGuard};

/// The user and the memberships of a client.
#[derive(Default)]
pub(super) struct Identity {
    /// Boxed, since most sessions have none.
    user: Option<Box<BoundUser>>,
    members: Vec<MemberGuard>,
}

struct BoundUser {
    guard: UserGuard,
    expiry: Expiry,
}

/// When the client must be bound to its user again.
enum Expiry {
    Never,
    At(Pin<Box<Sleep>>),
    Expired,
}

impl Expiry {
    fn after(lifetime: Option<Duration>) -> Self {
        match lifetime {
            Some(lifetime) => Self::At(Box::pin(sleep(lifetime))),
            None => Self::Never,
        }
    }
}

impl Identity {
    /// Binds the client to a user, for a `lifetime` if that is limited.
    pub(super) fn bind(&mut self, guard: UserGuard, lifetime: Option<Duration>) {
        let expiry = Expiry::after(lifetime);
        self.user = Some(Box::new(BoundUser { guard, expiry }));
    }

    /// Renews the binding if it is that to a user, and returns whether it is.
    pub(super) fn renew(&mut self, id: &str, lifetime: Option<Duration>) -> bool {
        match &mut self.user {
            Some(user) if user.guard.user() == id => {
                user.guard.renew(lifetime);
                user.expiry = Expiry::after(lifetime);
                true
            }
            _ => false,
        }
    }

    /// Returns the id of the user.
    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_deref().map(|user| user.guard.user())
    }

    /// Waits until the binding has expired.
    pub(super) fn poll_expiry(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(user) = &mut self.user else {
            return Poll::Pending;
        };
        let Expiry::At(sleep) = &mut user.expiry else {
            return Poll::Pending;
        };
        ready!(sleep.as_mut().poll(cx));
        user.expiry = Expiry::Expired;
        Poll::Ready(())
    }

    /// Returns the id of the user if the binding has expired.
    pub(super) fn expired_user(&self) -> Option<&str> {
        let user = self.user.as_deref()?;
        matches!(user.expiry, Expiry::Expired).then(|| user.guard.user())
    }

    /// Makes the client a member of a channel. A former membership of that channel ends.
    pub(super) fn join(&mut self, member: MemberGuard) {
        let mut members = self.members.iter_mut();
        match members.find(|former| former.channel() == member.channel()) {
            // Ends after the new membership has begun, so that the member does not leave.
            Some(former) => *former = member,
            None => self.members.push(member),
        }
    }

    /// Ends the membership of a channel.
    pub(super) fn leave(&mut self, channel: &str) {
        self.members.retain(|member| member.channel() != channel);
    }

    /// Returns whether the client is a member of a channel.
    pub(super) fn is_member(&self, channel: &str) -> bool {
        self.members.iter().any(|it| it.channel() == channel)
    }

    /// Returns the number of channels of which the client is a member.
    pub(super) fn channels(&self) -> usize {
        self.members.len()
    }
}
