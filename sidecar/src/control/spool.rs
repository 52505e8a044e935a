//! Pure: events that the controller doesn't hold durably yet, numbered from 1 without holes.
//!
//! Output that waits takes at most [`OUTPUT_MAX`]; what comes beyond is counted and becomes one gap event as soon as there is
//! room, before whatever follows it. After [`TRANSCRIPT_MAX`] in all no more is taken: one gap before each state change
//! says how much that was. State changes are never dropped. An event that was sent once never changes.

use std::collections::{BTreeMap, VecDeque};

use berth_protocol::control::{Event, Gap, Output, Said, event::Kind};

/// The events of one incarnation.
#[derive(Debug, Default)]
pub struct Spool {
    incarnation: u64,
    /// Number of the next event, from 1.
    next: u64,
    acked: u64,
    /// Highest number that has been handed to a stream: up to here nothing may change.
    sent: u64,
    /// Without holes: the first is `acked + 1`, the last `next - 1`.
    events: VecDeque<Event>,
    cost: usize,
    dropped: Gap,
    /// Output that was taken so far, with what was told of it.
    transcript: usize,
    is_over: bool,
}

impl Spool {
    /// An empty spool.
    pub fn new(incarnation: u64) -> Self {
        Self {
            incarnation,
            next: 1,
            ..Self::default()
        }
    }

    /// The spool of a restarted container: numbers up to `next` are given away, only `states` are still known. The
    /// others, which may or may not have arrived, become gaps under their own numbers.
    pub fn restore(incarnation: u64, next: u64, acked: u64, mut states: BTreeMap<u64, Event>, at: i64) -> Self {
        let mut spool = Self {
            incarnation,
            next: acked + 1,
            acked,
            ..Self::default()
        };
        while spool.next < next {
            let event = states.remove(&spool.next);
            let event = event.unwrap_or_else(|| spool.event(Kind::Gap(Gap { events: 1, bytes: 0 }), at));
            spool.append(event);
        }
        spool.sent = spool.next - 1;
        spool
    }

    /// Adds a state change, after the gap that precedes it. Gives its number.
    pub fn push(&mut self, kind: Kind, at: i64) -> u64 {
        self.tell_gap(at);
        let event = self.event(kind, at);
        self.append(event);
        self.next - 1
    }

    /// Adds output, or counts it when there is no room.
    pub fn push_output(&mut self, stream: u32, data: &[u8], at: i64) {
        if !self.takes(data.len()) {
            self.dropped.events += 1;
            self.dropped.bytes += data.len() as u64;
            return;
        }
        self.tell_gap(at);
        if !self.extend_last(stream, data) {
            let event = self.event(
                Kind::Output(Output {
                    stream,
                    data: data.to_vec(),
                }),
                at,
            );
            self.append(event);
        }
    }

    /// Adds what the harness told, or counts it when there is no room: it is in the output too. What others wait for is told
    /// also when the transcript is over.
    pub fn push_said(&mut self, said: Said, at: i64) {
        let is_state = STATES.contains(&said.kind.as_str());
        if (is_state && self.has_room(said.told.len())) || self.takes(said.told.len()) {
            self.push(Kind::Said(said), at);
        } else {
            self.dropped.events += 1;
        }
    }

    /// Counts connections that were denied; `false` when there is no room for that now.
    pub fn push_denied(&mut self, count: u32, at: i64) -> bool {
        let room = self.has_room(0);
        if room {
            self.push(Kind::Denied(count), at);
        }
        room
    }

    /// Forgets what the controller holds, up to and including `number`.
    pub fn acknowledge(&mut self, number: u64, at: i64) {
        while let Some(event) = self.events.pop_front_if(|event| event.client_seq <= number) {
            self.cost -= cost(&event);
            self.acked = event.client_seq;
        }
        self.sent = self.sent.max(self.acked);
        if self.has_room(0) && !self.is_over {
            self.tell_gap(at);
        }
    }

    /// The event that follows `number`, to be sent now.
    pub fn after(&mut self, number: u64) -> Option<Event> {
        let index = usize::try_from(number.max(self.acked) - self.acked).ok()?;
        let event = self.events.get(index)?.clone();
        self.sent = self.sent.max(event.client_seq);
        Some(event)
    }

    /// An event that waits.
    pub fn peek(&self, number: u64) -> Option<&Event> {
        let index = number.checked_sub(self.acked + 1)?;
        self.events.get(usize::try_from(index).ok()?)
    }

    /// Number of the next event.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Highest number that the controller holds durably.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Highest number so far; one more while a gap waits for its event.
    pub fn told(&self) -> u64 {
        self.next.saturating_sub(1) + u64::from(self.dropped.events > 0)
    }

    /// Whether nothing is left to be told.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.dropped.events == 0
    }

    /// Whether so much more of the transcript is taken; it counts as taken then.
    fn takes(&mut self, bytes: usize) -> bool {
        self.is_over |= self.transcript + bytes > TRANSCRIPT_MAX;
        let takes = !self.is_over && self.has_room(bytes);
        self.transcript += if takes { bytes } else { 0 };
        takes
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.cost + bytes + EVENT_OVERHEAD <= OUTPUT_MAX
    }

    /// Fewer and larger events, where the stream is slower than the harness.
    fn extend_last(&mut self, stream: u32, data: &[u8]) -> bool {
        let sent = self.sent;
        let last = self.events.back_mut().filter(|last| last.client_seq > sent);
        let Some(Kind::Output(output)) = last.and_then(|last| last.kind.as_mut()) else {
            return false;
        };
        let fits = output.stream == stream && output.data.len() + data.len() <= EVENT_DATA_MAX;
        if fits {
            output.data.extend_from_slice(data);
            self.cost += data.len();
        }
        fits
    }

    fn tell_gap(&mut self, at: i64) {
        if self.dropped.events > 0 {
            let gap = std::mem::take(&mut self.dropped);
            let event = self.event(Kind::Gap(gap), at);
            self.append(event);
        }
    }

    fn event(&self, kind: Kind, at: i64) -> Event {
        Event {
            incarnation: self.incarnation,
            client_seq: self.next,
            at_unix_ms: at,
            kind: Some(kind),
        }
    }

    fn append(&mut self, event: Event) {
        self.cost += cost(&event);
        self.next += 1;
        self.events.push_back(event);
    }
}

fn cost(event: &Event) -> usize {
    let data = match &event.kind {
        Some(Kind::Output(output)) => output.data.len(),
        Some(Kind::Exited(exited)) => exited.summary.len() + exited.error.len(),
        Some(Kind::Started(started)) => started.command.iter().map(String::len).sum(),
        Some(Kind::Violation(why)) => why.len(),
        Some(Kind::Said(said)) => said.told.len() + said.kind.len(),
        Some(Kind::Gap(_) | Kind::Denied(_) | Kind::Restored(_)) | None => 0,
    };
    data + EVENT_OVERHEAD
}

/// DESIGN §8: the transcript waits up to 64 MiB. The container's limit is 128 MiB.
pub const OUTPUT_MAX: usize = 64 << 20;
/// Of a pod's life: a program that writes without end fills nobody's database. `kubectl logs` has the rest.
pub const TRANSCRIPT_MAX: usize = 256 << 20;
/// What is told of a harness ([`berth_protocol::told::Told`]) that somebody waits for: the runner's own word, once an input. What
/// follows from lines of the program counts as transcript.
const STATES: [&str; 2] = ["input", "waitingForInput"];
/// What an event takes beside its data, its place in the queue and allocator slack included; an agent that writes byte
/// by byte is held to the same memory.
const EVENT_OVERHEAD: usize = 256;
/// One event's output: a frame of the handoff.
const EVENT_DATA_MAX: usize = berth_protocol::handoff::MAX_OUTPUT_BYTES;

#[cfg(test)]
mod tests {
    use berth_protocol::control::HarnessExited;

    use super::*;

    fn exited() -> Kind {
        Kind::Exited(HarnessExited {
            code: 3,
            ..HarnessExited::default()
        })
    }

    fn all(spool: &mut Spool) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = spool.after(events.last().map_or(0, |event: &Event| event.client_seq)) {
            events.push(event);
        }
        events
    }

    fn numbers(events: &[Event]) -> Vec<u64> {
        events.iter().map(|event| event.client_seq).collect()
    }

    fn fill(spool: &mut Spool) -> u64 {
        let piece = vec![b'x'; EVENT_DATA_MAX];
        let mut pushed = 0;
        while spool.has_room(piece.len()) {
            spool.push_output(1, &piece, 0);
            pushed += 1;
        }
        pushed
    }

    #[test]
    fn events_are_numbered_from_one_and_resent_from_the_first_unacknowledged() {
        let mut spool = Spool::new(2);
        spool.push(Kind::Denied(1), 5);
        spool.push(Kind::Denied(2), 6);
        spool.push(exited(), 7);
        assert_eq!(numbers(&all(&mut spool)), [1, 2, 3]);
        spool.acknowledge(1, 8);
        assert_eq!(numbers(&all(&mut spool)), [2, 3]);
        spool.acknowledge(99, 9);
        assert!(spool.is_empty());
        assert_eq!(spool.push(exited(), 9), 4);
    }

    #[test]
    fn output_beyond_the_bound_becomes_a_counted_gap_and_states_stay() {
        let mut spool = Spool::new(1);
        let kept = fill(&mut spool);
        spool.push_output(1, &vec![b'y'; EVENT_DATA_MAX], 1);
        spool.push_output(2, b"z", 2); // small enough to fit
        spool.push_output(1, &vec![b'y'; EVENT_DATA_MAX], 3);
        spool.push(exited(), 4);
        let events = all(&mut spool);
        assert_eq!(numbers(&events), (1..=kept + 4).collect::<Vec<_>>());
        let tail: Vec<_> = events
            .iter()
            .rev()
            .take(4)
            .map(|event| event.kind.clone().unwrap())
            .collect();
        let gap = |events: u64| {
            Kind::Gap(Gap {
                events,
                bytes: events * EVENT_DATA_MAX as u64,
            })
        };
        let small = Kind::Output(Output {
            stream: 2,
            data: b"z".to_vec(),
        });
        assert_eq!(tail, [exited(), gap(1), small, gap(1)]);
        assert!(spool.cost <= OUTPUT_MAX + 4 * EVENT_OVERHEAD, "{}", spool.cost);
    }

    #[test]
    fn a_transcript_ends_and_states_go_on() {
        let mut spool = Spool::new(1);
        let piece = vec![b'x'; EVENT_DATA_MAX];
        for _ in 0..TRANSCRIPT_MAX / EVENT_DATA_MAX {
            spool.push_output(1, &piece, 0);
            spool.acknowledge(spool.next() - 1, 0);
        }
        let before = spool.next();
        let said = |kind: &str| Said {
            kind: kind.to_owned(),
            ..Said::default()
        };
        for _ in 0..3 {
            spool.push_output(1, b"more", 0);
            spool.push_said(said("message"), 0);
            spool.acknowledge(spool.next() - 1, 0);
        }
        assert_eq!(spool.next(), before, "no gap for every piece");
        spool.push_said(said("waitingForInput"), 0);
        let kinds: Vec<_> = all(&mut spool).into_iter().filter_map(|event| event.kind).collect();
        let gap = Gap { events: 6, bytes: 12 };
        assert_eq!(kinds, [Kind::Gap(gap), Kind::Said(said("waitingForInput"))]);
    }

    #[test]
    fn a_gap_is_told_as_soon_as_there_is_room() {
        let mut spool = Spool::new(1);
        let kept = fill(&mut spool);
        for _ in 0..3 {
            spool.push_output(1, &vec![b'y'; EVENT_DATA_MAX], 0);
        }
        assert!(!spool.is_empty());
        spool.acknowledge(kept, 0);
        let events = all(&mut spool);
        assert_eq!(events.len(), 1);
        let expected = Gap {
            events: 3,
            bytes: 3 * EVENT_DATA_MAX as u64,
        };
        assert_eq!(events[0].kind, Some(Kind::Gap(expected)));
        spool.acknowledge(kept + 1, 0);
        assert_eq!((spool.cost, spool.is_empty()), (0, true));
    }

    #[test]
    fn unsent_output_of_one_stream_is_joined_and_sent_output_never_changes() {
        let mut spool = Spool::new(1);
        spool.push_output(1, b"a", 1);
        spool.push_output(1, b"b", 2);
        spool.push_output(2, b"c", 3);
        let before = all(&mut spool);
        assert_eq!(before.len(), 2);
        spool.push_output(2, b"d", 4);
        let after = all(&mut spool);
        assert_eq!(after[..2], before[..]);
        assert_eq!(after.len(), 3);
    }

    #[test]
    fn a_restart_leaves_no_hole_and_keeps_states() {
        let state = Event {
            incarnation: 4,
            client_seq: 6,
            at_unix_ms: 1,
            kind: Some(exited()),
        };
        let mut spool = Spool::restore(4, 8, 4, BTreeMap::from([(6, state.clone())]), 9);
        let events = all(&mut spool);
        assert_eq!(numbers(&events), [5, 6, 7]);
        assert_eq!(events[1], state);
        assert_eq!(events[2].kind, Some(Kind::Gap(Gap { events: 1, bytes: 0 })));
        assert_eq!(spool.next(), 8);
    }

    #[test]
    fn many_tiny_outputs_are_held_to_the_same_memory() {
        let mut spool = Spool::new(1);
        for turn in 0..400_000_u32 {
            spool.push_output(turn % 2 + 1, b"x", 0); // alternating streams can't be joined
        }
        assert!(spool.cost <= OUTPUT_MAX + EVENT_OVERHEAD);
        assert!(spool.events.len() <= OUTPUT_MAX / EVENT_OVERHEAD);
        spool.push(exited(), 0);
        let last = spool.events.iter().rev().nth(1).unwrap();
        let Some(Kind::Gap(gap)) = &last.kind else {
            panic!("no gap: {last:?}")
        };
        assert_eq!(gap.events + spool.events.len() as u64 - 2, 400_000);
    }
}
