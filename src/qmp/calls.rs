//! The calls of a session, from issue to reply, and the requests on their way out.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use super::limits::MAX_ABANDONED;
use super::request::{self, Band};

/// Names a call for [`Session::fail`] and [`Session::forget`]. Unique in the session.
///
/// [`Session::fail`]: super::Session::fail
/// [`Session::forget`]: super::Session::forget
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub(super) u64);

/// All calls that await a reply.
#[derive(Debug)]
pub(super) struct Calls<T> {
    next_id: u64,
    /// Whether the requests of calls end in a line feed.
    line_feeds: bool,
    /// In the order of issue.
    unanswered: BTreeMap<u64, Call<T>>,
    /// How many of them have a caller.
    pending: usize,
    /// In-band calls that QEMU has and did not answer.
    in_flight: usize,
    /// In-band requests to send, in order.
    requests: VecDeque<Request>,
    /// Out-of-band requests to send; they go first.
    urgent: VecDeque<Request>,
    /// The calls that were handed over and not acknowledged as sent.
    handed_over: Vec<u64>,
    /// The calls of each band without a caller, the last [`MAX_ABANDONED`] of them.
    /// Some may have been answered.
    abandoned: [VecDeque<u64>; 2],
}

/// A call that got its reply, or its end.
pub(super) struct Call<T> {
    pub(super) command: Box<str>,
    /// An error must not repeat the secrets among them.
    pub(super) arguments: Option<Box<str>>,
    /// Nothing when the call has ended but its reply is still to come.
    pub(super) token: Option<T>,
    band: Band,
    stage: Stage,
}

/// How far the request of a call got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Waiting,
    HandedOver,
    Sent,
}

struct Request {
    id: u64,
    line: Vec<u8>,
}

// Arguments may hold secrets.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Call<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("command", &self.command)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

impl<T> Call<T> {
    /// Whether QEMU may have the command.
    pub(super) fn is_sent(&self) -> bool {
        self.stage != Stage::Waiting
    }
}

impl<T> Calls<T> {
    pub(super) fn new(first_id: u64) -> Self {
        Self {
            next_id: first_id,
            line_feeds: true,
            unanswered: BTreeMap::new(),
            pending: 0,
            in_flight: 0,
            requests: VecDeque::new(),
            urgent: VecDeque::new(),
            handed_over: Vec::new(),
            abandoned: Default::default(),
        }
    }

    /// How many calls have a caller.
    pub(super) fn pending(&self) -> usize {
        self.pending
    }

    /// Whether nothing waits for a reply, also of calls that have no caller left.
    pub(super) fn is_empty(&self) -> bool {
        self.unanswered.is_empty()
    }

    pub(super) fn has_unsent(&self) -> bool {
        !(self.requests.is_empty() && self.urgent.is_empty())
    }

    /// Whether a call was handed over that has no reply yet.
    pub(super) fn awaits_reply(&self) -> bool {
        self.in_flight > 0 || self.unanswered.values().any(Call::is_sent)
    }

    /// Whether a request of this id waits to be handed over.
    pub(super) fn is_queued(&self, id: u64) -> bool {
        let is_in = |queue: &VecDeque<Request>| {
            queue.binary_search_by_key(&id, |request| request.id).is_ok()
        };
        is_in(&self.requests) || is_in(&self.urgent)
    }

    /// The command of a call that has a caller.
    pub(super) fn command(&self, id: u64) -> Option<&str> {
        let call = self.unanswered.get(&id)?;
        call.token.as_ref().map(|_| &*call.command)
    }

    pub(super) fn take_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    pub(super) fn set_line_feeds(&mut self, line_feeds: bool) {
        self.line_feeds = line_feeds;
    }

    /// Queues a request that is not a call, as a line.
    pub(super) fn request(&mut self, command: &str, arguments: Option<&str>) -> u64 {
        self.queue(command, arguments, Band::In, true)
    }

    fn queue(
        &mut self,
        command: &str,
        arguments: Option<&str>,
        band: Band,
        line_feed: bool,
    ) -> u64 {
        let id = self.take_id();
        let mut line = request::encode(command, arguments, band, id);
        if line_feed {
            line.push(b'\n');
        }
        let queue = match band {
            Band::In => &mut self.requests,
            Band::Out => &mut self.urgent,
        };
        queue.push_back(Request { id, line });
        id
    }

    /// Takes back the requests that were not handed over.
    pub(super) fn clear_requests(&mut self) {
        self.requests.clear();
        self.urgent.clear();
    }

    /// Queues the request of a call. Without a token its reply is nobody's.
    pub(super) fn issue(
        &mut self,
        command: &str,
        arguments: Option<&str>,
        band: Band,
        token: Option<T>,
    ) -> u64 {
        let id = self.queue(command, arguments, band, self.line_feeds);
        let nobodys = token.is_none();
        self.pending += usize::from(!nobodys);
        self.unanswered.insert(
            id,
            Call {
                command: command.into(),
                arguments: arguments.map(Box::from),
                token,
                band,
                stage: Stage::Waiting,
            },
        );
        if nobodys {
            self.remember_abandoned(id, band);
        }
        id
    }

    /// All that may be sent now, in one piece. With a limit, so many calls in band can
    /// be in flight.
    pub(super) fn poll_transmit(&mut self, limit: Option<usize>) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(request) = self.next_request(limit) {
            if let Some(call) = self.unanswered.get_mut(&request.id) {
                call.stage = Stage::HandedOver;
                self.handed_over.push(request.id);
                if call.band == Band::In {
                    self.in_flight += 1;
                }
            }
            if bytes.is_empty() {
                bytes = request.line;
            } else {
                bytes.extend_from_slice(&request.line);
            }
        }
        (!bytes.is_empty()).then_some(bytes)
    }

    fn next_request(&mut self, limit: Option<usize>) -> Option<Request> {
        self.urgent.pop_front().or_else(|| {
            let may_send = limit.is_none_or(|limit| self.in_flight < limit);
            may_send.then(|| self.requests.pop_front()).flatten()
        })
    }

    /// Tells what became of the calls that were handed over.
    pub(super) fn set_handed_over(&mut self, stage: Stage) {
        for id in self.handed_over.drain(..) {
            if let Some(call) = self.unanswered.get_mut(&id) {
                call.stage = stage;
            }
        }
    }

    /// Takes the token of a call. What was sent keeps its place until QEMU answers.
    pub(super) fn abandon(&mut self, id: u64) -> Option<T> {
        let call = self.unanswered.get_mut(&id)?;
        let token = call.token.take()?;
        call.arguments = None;
        let (band, stage) = (call.band, call.stage);
        self.pending -= 1;
        if stage == Stage::Waiting {
            self.unanswered.remove(&id);
            for queue in [&mut self.requests, &mut self.urgent] {
                // Ids only grow, so both queues are in order.
                if let Ok(at) = queue.binary_search_by_key(&id, |request| request.id) {
                    queue.remove(at);
                }
            }
        } else {
            self.remember_abandoned(id, band);
        }
        Some(token)
    }

    /// Forgets the oldest call without a caller where this one is too many. With
    /// `oob` fewer in band can be in flight, so that their number stays right.
    fn remember_abandoned(&mut self, id: u64, band: Band) {
        let ids = &mut self.abandoned[band as usize];
        ids.push_back(id);
        if ids.len() <= MAX_ABANDONED {
            return;
        }
        let forgotten = ids.pop_front().and_then(|id| self.unanswered.remove(&id));
        if forgotten.is_some_and(|call| call.band == Band::In && call.is_sent()) {
            self.in_flight -= 1;
        }
    }

    /// Takes the call that a reply with this id answers, if QEMU has it.
    pub(super) fn answered(&mut self, id: u64) -> Option<Call<T>> {
        if !self.unanswered.get(&id).is_some_and(Call::is_sent) {
            return None;
        }
        let call = self.unanswered.remove(&id)?;
        if self.unanswered.is_empty() {
            // An empty map keeps a node, of over a kilobyte.
            self.unanswered = BTreeMap::new();
        }
        if call.token.is_some() {
            self.pending -= 1;
        }
        if call.band == Band::In {
            self.in_flight -= 1;
            self.drop_abandoned_before(id);
        }
        Some(call)
    }

    /// QEMU answers in order: what was abandoned before `id` will not be answered.
    fn drop_abandoned_before(&mut self, id: u64) {
        if self.unanswered.len() == self.pending {
            // Nothing was abandoned.
            return;
        }
        let passed = |call: &Call<T>| call.token.is_none() && call.band == Band::In;
        let dropped = self
            .unanswered
            .extract_if(..id, |_, call| call.is_sent() && passed(call));
        self.in_flight -= dropped.count();
    }

    /// The oldest call in band that QEMU has.
    pub(super) fn oldest_sent(&self) -> Option<u64> {
        self.unanswered
            .iter()
            .find(|(_, call)| call.band == Band::In && call.is_sent())
            .map(|(&id, _)| id)
    }

    /// Takes the calls that QEMU has; what was not sent yet stays.
    pub(super) fn take_sent(&mut self) -> Vec<Call<T>> {
        let sent = self.unanswered.extract_if(.., |_, call| call.is_sent());
        let sent: Vec<_> = sent.map(|(_, call)| call).collect();
        self.pending -= sent.iter().filter(|call| call.token.is_some()).count();
        self.in_flight = 0;
        self.handed_over.clear();
        sent
    }

    /// Takes all calls and forgets all requests.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Call<T>> + use<T> {
        self.clear_requests();
        self.handed_over.clear();
        self.abandoned = Default::default();
        self.pending = 0;
        self.in_flight = 0;
        std::mem::take(&mut self.unanswered).into_values()
    }
}
