//! What the attempts of one exchange leave for a client whom nobody answers.

use std::sync::Arc;

use super::exchange::Exchange;
use super::reject::Error;
use crate::backend::Backend;
use crate::upstream::UpstreamResponse;
use crate::wire::refusal::outranks;

/// What the attempts so far have left.
pub(super) struct Tries {
    /// The error to tell: of those that may have left work done, or else of all, the last.
    pub(super) fault: Error,
    /// The refusal to show instead, unless somebody may have done the work.
    pub(super) refusal: Option<Box<Refusal>>,
    /// Whether somebody may have done the work.
    pub(super) done: bool,
}

/// A refusal, and whose it is. Boxed, because it is rare, and every future that waits for an attempt has room for one.
type Refusal = (Box<UpstreamResponse>, Option<(Arc<Backend>, Option<usize>)>);

impl Tries {
    /// None yet.
    pub(super) const fn new() -> Self {
        Self { fault: Error::Unreachable, refusal: None, done: false }
    }

    /// Nothing was done. Who failed before with the work perhaps done says more: a client that is told that nobody was reached takes it
    /// for free to ask again.
    pub(super) fn came_to_nothing(&mut self, fault: Error) {
        // That there was no room here for one of them says more than that another was not there: it passes, and is worth a retry.
        if !self.done && !matches!(self.fault, Error::Busy) {
            self.fault = fault;
        }
    }

    /// The work may have been done.
    pub(super) fn may_be_done(&mut self, fault: Error) {
        (self.done, self.fault) = (true, fault);
    }

    /// The backend that is tried now refused the work. Of all refusals one is kept, for the client to see.
    pub(super) fn refused(&mut self, refusal: Box<UpstreamResponse>, x: &Exchange) {
        if outranks(refusal.head.status, self.refusal.as_ref().map(|kept| kept.0.head.status)) {
            self.refusal = Some(Box::new((refusal, x.serving.clone())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_done_says_more_than_what_was_not() {
        let mut tries = Tries::new();
        tries.came_to_nothing(Error::NoToken);
        assert_eq!((tries.fault.code(), tries.done), ("backend_token_missing", false));
        tries.came_to_nothing(Error::Busy);
        assert_eq!(tries.fault.code(), "overloaded");
        tries.may_be_done(Error::UpstreamTimeout);
        tries.came_to_nothing(Error::NoToken);
        assert_eq!((tries.fault.code(), tries.done), ("backend_timeout", true));
        tries.may_be_done(Error::BadGateway);
        assert_eq!(tries.fault.code(), "bad_gateway");
    }

    #[test]
    fn a_want_of_room_is_told_although_another_backend_was_not_there() {
        let mut tries = Tries::new();
        tries.came_to_nothing(Error::Busy);
        tries.came_to_nothing(Error::Unreachable);
        assert!(matches!(tries.fault, Error::Busy));
        tries.may_be_done(Error::BadGateway);
        tries.came_to_nothing(Error::Busy);
        assert!(matches!(tries.fault, Error::BadGateway), "work that may be done is not to be asked for again");
    }
}
