// SPDX-License-Identifier: MIT OR Apache-2.0
//! The calls of a session, from issue to reply, including the requests still to be sent.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;

use super::limits::MAX_ABANDONED;
use super::request::{self, Band};

/// Identifies a call for [`Session::fail`] and [`Session::forget`]. Unique in the session.
///
/// [`Session::fail`]: super::Session::fail
/// [`Session::forget`]: super::Session::forget
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub(super) u64);

/// All calls that have not been answered yet.
#[derive(Debug)]
pub(super) struct Calls<T> {
    first_id: u64,
    next_id: u64,
    /// Whether the requests of calls end in a line feed.
    line_feeds: bool,
    /// How many calls have a caller.
    pending: usize,
    /// `None` if there has been no call for a while: of many ports, most are idle.
    under_way: Option<Box<UnderWay<T>>>,
}

/// A queue in the order of ids.
type ById<V> = VecDeque<(u64, V)>;

/// Calls and requests under way. Each array has one element per band.
///
/// Ids only grow, so every queue is in the order of its ids, which is that of issue. No
/// operation visits more calls than it removes.
#[derive(Debug)]
struct UnderWay<T> {
    /// Requests to send; the out-of-band ones go first.
    queued: [ById<Request<T>>; 2],
    /// The calls that QEMU has, or may have, received.
    sent: [ById<Call<T>>; 2],
    /// Those of them without a caller, at most [`MAX_ABANDONED`].
    abandoned: [BTreeSet<u64>; 2],
    /// The calls that were handed over but not acknowledged as sent.
    handed_over: Vec<(u64, Band)>,
    /// The last call that was handed over and carries file descriptors.
    carrier: Option<(u64, Band)>,
    /// How many abandoned calls were visited, for the tests.
    #[cfg(test)]
    steps: usize,
}

impl<T> Default for UnderWay<T> {
    fn default() -> Self {
        Self {
            queued: Default::default(),
            sent: Default::default(),
            abandoned: Default::default(),
            handed_over: Vec::new(),
            carrier: None,
            #[cfg(test)]
            steps: 0,
        }
    }
}

/// A call that is under way, or that has just ended.
pub(super) struct Call<T> {
    pub(super) command: Box<str>,
    /// Errors must not repeat any secrets in its arguments.
    pub(super) arguments: Option<Box<str>>,
    /// `None` if the call has ended but its reply is still to come.
    pub(super) token: Option<T>,
    /// Whether file descriptors go with it.
    carries: bool,
    /// Whether QEMU may have received the command.
    pub(super) is_sent: bool,
}

struct Request<T> {
    line: Vec<u8>,
    /// `None` for the negotiation, which is not a call.
    call: Option<Call<T>>,
}

// Arguments may hold secrets.
impl<T> fmt::Debug for Request<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("call", &self.call)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Call<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("command", &self.command)
            .field("is_sent", &self.is_sent)
            .finish_non_exhaustive()
    }
}

impl<T> Calls<T> {
    pub(super) fn new(first_id: u64) -> Self {
        Self {
            first_id,
            next_id: first_id,
            line_feeds: true,
            pending: 0,
            under_way: None,
        }
    }

    fn under_way(&mut self) -> &mut UnderWay<T> {
        self.under_way.get_or_insert_default()
    }

    /// Whether no request has been made yet, on any connection.
    pub(super) fn is_new(&self) -> bool {
        self.next_id == self.first_id
    }

    /// How many calls have a caller.
    pub(super) fn pending(&self) -> usize {
        self.pending
    }

    /// Whether a call was handed over that has had no reply yet.
    pub(super) fn awaits_reply(&self) -> bool {
        let under_way = self.under_way.as_ref();
        under_way.is_some_and(|it| it.sent.iter().any(|sent| !sent.is_empty()))
    }

    /// How many requests wait for a reply, sent or not, including those whose caller has
    /// given up.
    pub(super) fn unanswered(&self) -> usize {
        self.sent() + self.unsent()
    }

    /// How many requests were not handed over yet.
    pub(super) fn unsent(&self) -> usize {
        self.queues().map(VecDeque::len).sum()
    }

    /// How many calls QEMU has received but not answered.
    pub(super) fn sent(&self) -> usize {
        let under_way = self.under_way.iter();
        under_way.flat_map(|it| &it.sent).map(VecDeque::len).sum()
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.queues().any(|queue| !queue.is_empty())
    }

    fn queues(&self) -> impl Iterator<Item = &ById<Request<T>>> {
        self.under_way.iter().flat_map(|it| &it.queued)
    }

    /// Whether the request with this id waits to be handed over.
    pub(super) fn is_queued(&self, id: u64) -> bool {
        self.queues().any(|queue| place(queue, id).is_some())
    }

    /// The command of a call that has a caller.
    pub(super) fn command(&self, id: u64) -> Option<&str> {
        let under_way = self.under_way.as_ref()?;
        let mut sent = under_way.sent.iter();
        let call = sent.find_map(|sent| Some(&sent[place(sent, id)?].1));
        let call = call.or_else(|| {
            let mut queues = under_way.queued.iter();
            queues.find_map(|queue| queue[place(queue, id)?].1.call.as_ref())
        })?;
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

    /// Queues a request that is not a call; `line_feed` says whether it ends in a line feed.
    pub(super) fn request(
        &mut self,
        command: &str,
        arguments: Option<&str>,
        line_feed: bool,
    ) -> u64 {
        let id = self.take_id();
        let mut line = request::encode(command, arguments, Band::In, id);
        if line_feed || self.line_feeds {
            line.push(b'\n');
        }
        let call = None;
        let request = Request { line, call };
        self.under_way().queued[Band::In as usize].push_back((id, request));
        id
    }

    /// Removes the requests that were not handed over. None of them belongs to a call.
    pub(super) fn clear_requests(&mut self) {
        if let Some(under_way) = &mut self.under_way {
            under_way.queued = Default::default();
        }
    }

    /// Queues the request of a call. Without a token, its reply is ignored.
    pub(super) fn issue(
        &mut self,
        command: &str,
        arguments: Option<&str>,
        band: Band,
        carries: bool,
        token: Option<T>,
    ) -> u64 {
        let id = self.take_id();
        let mut line = request::encode(command, arguments, band, id);
        if self.line_feeds {
            line.push(b'\n');
        }
        self.pending += usize::from(token.is_some());
        let call = Some(Call {
            command: command.into(),
            arguments: arguments.map(Box::from),
            token,
            carries,
            is_sent: false,
        });
        let request = Request { line, call };
        self.under_way().queued[band as usize].push_back((id, request));
        id
    }

    /// All that may be sent now, in one piece. A call that carries file descriptors starts a
    /// piece. `limit` is how many in-band calls may be in flight.
    pub(super) fn poll_transmit(&mut self, limit: Option<usize>) -> Option<Vec<u8>> {
        self.under_way.as_mut()?.poll_transmit(limit)
    }

    /// The token of the call in flight that carries file descriptors.
    pub(super) fn carrier_token(&mut self) -> Option<&mut T> {
        let under_way = self.under_way.as_mut()?;
        let (id, band) = under_way.carrier?;
        under_way.sent_call(id, band)?.token.as_mut()
    }

    /// Frees the memory of empty collections.
    pub(super) fn shrink_to_fit(&mut self) {
        if let Some(under_way) = &mut self.under_way {
            under_way
                .queued
                .iter_mut()
                .for_each(VecDeque::shrink_to_fit);
            under_way.handed_over.shrink_to_fit();
        }
        if self.unanswered() == 0 {
            self.under_way = None;
        }
    }

    /// What was handed over has been sent.
    pub(super) fn transmitted(&mut self) {
        if let Some(under_way) = &mut self.under_way {
            under_way.handed_over.clear();
        }
    }

    /// What was handed over did not reach QEMU.
    pub(super) fn transmit_failed(&mut self) {
        if let Some(under_way) = &mut self.under_way {
            for (id, band) in std::mem::take(&mut under_way.handed_over) {
                if let Some(call) = under_way.sent_call(id, band) {
                    call.is_sent = false;
                }
            }
        }
    }

    /// Removes the token of a call. A call that was sent keeps its place until QEMU answers.
    pub(super) fn abandon(&mut self, id: u64) -> Option<T> {
        let token = self.under_way.as_mut()?.abandon(id);
        self.pending -= usize::from(token.is_some());
        token
    }

    /// Removes the call that a reply with this id answers, if QEMU has received it.
    pub(super) fn answered(&mut self, id: u64) -> Option<Call<T>> {
        let call = self.under_way.as_mut()?.answered(id);
        let has_caller = call.as_ref().is_some_and(|call| call.token.is_some());
        self.pending -= usize::from(has_caller);
        call
    }

    /// The oldest in-band call that QEMU has received.
    pub(super) fn oldest_sent(&self) -> Option<u64> {
        let under_way = self.under_way.as_ref()?;
        Some(under_way.sent[Band::In as usize].front()?.0)
    }

    /// Removes the calls that QEMU has received, in order of issue; unsent ones stay.
    pub(super) fn take_sent(&mut self) -> impl Iterator<Item = Call<T>> + use<T> {
        let calls = self.under_way().take_sent();
        let with_caller = calls.iter().filter(|(_, call)| call.token.is_some());
        self.pending -= with_caller.count();
        calls.into_iter().map(|(_, call)| call)
    }

    /// Removes all calls, in order of issue, and drops all requests.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Call<T>> + use<T> {
        self.pending = 0;
        let mut under_way = self.under_way.take().unwrap_or_default();
        let mut calls = under_way.take_sent();
        let requests = under_way.queued.into_iter().flatten();
        calls.extend(requests.filter_map(|(id, request)| Some((id, request.call?))));
        calls.sort_by_key(|&(id, _)| id);
        calls.into_iter().map(|(_, call)| call)
    }
}

impl<T> UnderWay<T> {
    fn poll_transmit(&mut self, limit: Option<usize>) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some((band, id, request)) = self.next_request(limit, bytes.is_empty()) {
            if let Some(mut call) = request.call {
                if call.carries {
                    self.carrier = Some((id, band));
                }
                call.is_sent = true;
                let has_caller = call.token.is_some();
                self.sent[band as usize].push_back((id, call));
                self.handed_over.push((id, band));
                if !has_caller {
                    self.remember_abandoned(id, band);
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

    /// The next request that may be sent, either first in a piece or behind others.
    fn next_request(
        &mut self,
        limit: Option<usize>,
        first: bool,
    ) -> Option<(Band, u64, Request<T>)> {
        let may_go = |(_, request): &(u64, Request<T>)| {
            // With `oob`, QEMU mixes up the descriptors of two such calls in flight.
            let carries = request.call.as_ref().is_some_and(|call| call.carries);
            !carries || first && self.carrier().is_none()
        };
        let in_flight = self.sent[Band::In as usize].len();
        let [in_band, out_of_band] = &self.queued;
        let band = if out_of_band.front().is_some_and(may_go) {
            Band::Out
        } else if limit.is_none_or(|limit| in_flight < limit) && in_band.front().is_some_and(may_go)
        {
            Band::In
        } else {
            return None;
        };
        let (id, request) = self.queued[band as usize].pop_front()?;
        Some((band, id, request))
    }

    /// The call in flight that carries file descriptors.
    fn carrier(&self) -> Option<&Call<T>> {
        let (id, band) = self.carrier?;
        let sent = &self.sent[band as usize];
        Some(&sent[place(sent, id)?].1)
    }

    fn sent_call(&mut self, id: u64, band: Band) -> Option<&mut Call<T>> {
        let sent = &mut self.sent[band as usize];
        let at = place(sent, id)?;
        Some(&mut sent[at].1)
    }

    fn abandon(&mut self, id: u64) -> Option<T> {
        for band in [Band::In, Band::Out] {
            if let Some(call) = self.sent_call(id, band) {
                let token = call.token.take()?;
                call.arguments = None;
                self.remember_abandoned(id, band);
                return Some(token);
            }
            let queue = &mut self.queued[band as usize];
            if let Some(at) = place(queue, id) {
                queue[at].1.call.as_ref()?.token.as_ref()?;
                return queue.remove(at)?.1.call?.token;
            }
        }
        None
    }

    /// Forgets the oldest abandoned call when there are too many. With `oob`, fewer in-band
    /// calls can be in flight, so that their number stays right.
    fn remember_abandoned(&mut self, id: u64, band: Band) {
        let ids = &mut self.abandoned[band as usize];
        ids.insert(id);
        if ids.len() > MAX_ABANDONED
            && let Some(oldest) = ids.pop_first()
        {
            take(&mut self.sent[band as usize], oldest);
        }
    }

    fn answered(&mut self, id: u64) -> Option<Call<T>> {
        let [in_band, out_of_band] = &mut self.sent;
        let (band, call) = match take(in_band, id) {
            Some(call) => (Band::In, call),
            None => (Band::Out, take(out_of_band, id)?),
        };
        if call.token.is_none() {
            self.abandoned[band as usize].remove(&id);
        }
        if band == Band::In {
            self.drop_abandoned_before(id);
        }
        self.release(band);
        Some(call)
    }

    /// QEMU answers in order: calls abandoned before `id` will not be answered.
    fn drop_abandoned_before(&mut self, id: u64) {
        let ids = &mut self.abandoned[Band::In as usize];
        while let Some(entry) = ids.first() {
            #[cfg(test)]
            {
                self.steps += 1;
            }
            if *entry > id {
                break;
            }
            if let Some(passed) = ids.pop_first() {
                take(&mut self.sent[Band::In as usize], passed);
            }
        }
    }

    /// Frees what only many calls at a time need.
    fn release(&mut self, band: Band) {
        let sent = &mut self.sent[band as usize];
        if sent.is_empty() && sent.capacity() > KEPT_CALLS {
            *sent = VecDeque::new();
        }
    }

    /// Removes the calls that QEMU has received, by id.
    fn take_sent(&mut self) -> Vec<(u64, Call<T>)> {
        self.handed_over.clear();
        self.abandoned = Default::default();
        let sent = std::mem::take(&mut self.sent);
        let mut calls: Vec<_> = sent.into_iter().flatten().collect();
        calls.sort_by_key(|&(id, _)| id);
        calls
    }
}

/// For how many calls the memory is kept when none is in flight.
const KEPT_CALLS: usize = 128;

/// The index of an id in its queue.
fn place<V>(queue: &ById<V>, id: u64) -> Option<usize> {
    queue.binary_search_by_key(&id, |&(id, _)| id).ok()
}

/// Removes what has this id from its queue. Most often that is the first one.
fn take<V>(queue: &mut ById<V>, id: u64) -> Option<V> {
    Some(queue.remove(place(queue, id)?)?.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(count: u64) -> Calls<u64> {
        let mut calls = Calls::new(0);
        for token in 0..count {
            calls.issue("stop", None, Band::In, false, Some(token));
        }
        assert!(calls.poll_transmit(None).is_some());
        calls.transmitted();
        calls
    }

    #[test]
    fn answers_in_any_order_look_at_no_more_calls_than_they_end() {
        let count = if cfg!(miri) { 100 } else { 50_000 };
        // In reverse order, an unanswered call stays in front of all others.
        for abandoned in [0, count / 2, count - 1] {
            let mut calls = sent(count);
            assert_eq!(calls.abandon(abandoned), Some(abandoned));
            for id in (0..count).rev().filter(|&id| id != abandoned) {
                assert!(calls.answered(id).is_some_and(|it| it.token == Some(id)));
            }
            assert_eq!(
                (calls.pending(), calls.awaits_reply()),
                (0, abandoned == count - 1)
            );
            let most = usize::try_from(count).unwrap() + 1;
            let steps = calls.under_way().steps;
            assert!(steps <= most, "{steps} steps");
        }
    }

    #[test]
    fn what_is_abandoned_is_dropped_once_a_later_one_is_answered() {
        let mut calls = sent(4);
        for id in [2, 0, 3] {
            assert_eq!(calls.abandon(id), Some(id));
            assert_eq!(calls.abandon(id), None);
        }
        assert!(calls.answered(2).is_some_and(|it| it.token.is_none()));
        assert!(calls.answered(0).is_none(), "a later one was answered");
        assert!(calls.answered(1).is_some_and(|it| it.token == Some(1)));
        assert!(calls.awaits_reply());
        assert!(calls.answered(3).is_some());
        assert!(!calls.awaits_reply());
    }

    fn commands(bytes: Option<Vec<u8>>) -> Vec<String> {
        let text = String::from_utf8(bytes.unwrap_or_default()).unwrap();
        let name = |line: &str| line.split('"').nth(3).unwrap().to_owned();
        text.lines().map(name).collect()
    }

    #[test]
    fn one_that_carries_something_starts_a_piece_and_is_alone_in_flight() {
        let mut calls = Calls::new(0);
        for (token, command) in ["a", "FD1", "b", "FD2", "c"].into_iter().enumerate() {
            calls.issue(
                command,
                None,
                Band::In,
                command.starts_with("FD"),
                Some(token),
            );
        }
        calls.issue("o", None, Band::Out, false, Some(5));
        assert_eq!(commands(calls.poll_transmit(None)), ["o", "a"]);
        assert_eq!(calls.carrier_token(), None);
        assert_eq!(commands(calls.poll_transmit(None)), ["FD1", "b"]);
        assert_eq!(calls.carrier_token(), Some(&mut 1));
        assert!(calls.poll_transmit(None).is_none());
        // The other band does not wait for it, except a call that carries descriptors, too.
        calls.issue("p", None, Band::Out, false, Some(6));
        calls.issue("FD3", None, Band::Out, true, Some(7));
        assert_eq!(commands(calls.poll_transmit(None)), ["p"]);
        // QEMU still has a call that was abandoned.
        assert_eq!(calls.abandon(1), Some(1));
        assert_eq!(calls.carrier_token(), None);
        assert!(calls.poll_transmit(None).is_none());
        assert!(calls.answered(1).is_some());
        assert_eq!(commands(calls.poll_transmit(None)), ["FD3"]);
        assert!(calls.answered(7).is_some());
        // A call that is abandoned before it was sent delays nothing.
        assert_eq!(calls.abandon(3), Some(3));
        assert_eq!(commands(calls.poll_transmit(None)), ["c"]);
    }

    #[test]
    fn what_carries_something_waits_for_room_as_all_do() {
        let mut calls = Calls::new(0);
        for token in 0..3 {
            calls.issue("x", None, Band::In, token == 2, Some(token));
        }
        assert_eq!(commands(calls.poll_transmit(Some(2))).len(), 2);
        assert!(calls.poll_transmit(Some(2)).is_none());
        assert!(calls.answered(0).is_some());
        assert_eq!(commands(calls.poll_transmit(Some(2))).len(), 1);
        assert_eq!(calls.carrier_token(), Some(&mut 2));
        // The connection ends: the call that carried descriptors on it delays nothing.
        assert_eq!(calls.take_all().count(), 2);
        calls.issue("x", None, Band::In, true, Some(9));
        assert_eq!(commands(calls.poll_transmit(None)).len(), 1);
    }
}
