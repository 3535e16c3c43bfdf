use super::*;

/// A history of one sink `main` with one lane, two processors, and whatever a test adds.
struct Story(History);

impl Story {
    fn new(acked: impl IntoIterator<Item = EventId>) -> Self {
        let journal = Journal {
            lanes: vec![("main".to_owned(), "events".to_owned())],
            lives: vec![(0, 100), (1, 101), (0, 102)],
            entries: Vec::new(),
        };
        let sinks = vec![SinkSaw { name: "main".to_owned(), ..SinkSaw::default() }];
        Self(History { acked: acked.into_iter().collect(), sinks, journal, permits: 2, ..History::default() })
    }

    fn note(mut self, life: Life, what: What) -> Self {
        let at = self.0.journal.entries.len() as u64 * 1_000_000_000;
        self.0.journal.entries.push(Entry { at, life, what });
        self
    }

    fn start(self, life: Life, offset: i64) -> Self {
        self.note(life, What::Started(place(offset)))
    }

    /// Answered, with the effect at the sink that belongs to it.
    fn answer(mut self, life: Life, offset: i64, id: EventId, answer: Answer) -> Self {
        if matches!(answer, Answer::Ok | Answer::Unknown) {
            self = self.effect(id);
        }
        self.note(life, What::Answered { place: place(offset), id, turn: [0; 3], answer })
    }

    fn deliver(self, life: Life, offset: i64, id: EventId) -> Self {
        self.start(life, offset).answer(life, offset, id, Answer::Ok)
    }

    fn effect(mut self, id: EventId) -> Self {
        *self.0.sinks[0].effects.entry(id).or_default() += 1;
        self
    }

    fn commit(self, life: Life, base: i64, bits: &[u8]) -> Self {
        self.note(life, What::Committed { base: place(base), bits: bits.to_vec() })
    }

    fn crash(mut self, node: usize, pid: i32) -> Self {
        self.0.crashes.push((node, pid));
        self
    }

    fn violates(&self, expected: &[Invariant]) -> Findings {
        let findings = check(&self.0);
        assert_eq!(findings.violations.keys().copied().collect::<Vec<_>>(), expected, "{findings}");
        findings
    }
}

fn place(offset: i64) -> Place {
    Place { lane: 0, partition: 0, offset }
}

#[test]
fn a_good_history_is_clean() {
    let findings = Story::new([1, 2]).deliver(0, 0, 1).deliver(0, 1, 2).commit(0, 2, &[]).violates(&[]);
    assert_eq!((findings.acked, findings.dispatches, findings.twice), (2, 2, 0));
}

#[test]
fn a_lost_event_is_found_and_a_dead_one_is_not_lost() {
    let mut story = Story::new([1, 2]).deliver(0, 0, 1);
    let findings = story.violates(&[Invariant::Lost]);
    assert_eq!(findings.count(Invariant::Lost), 1);
    story.0.sinks[0].dead.insert(2);
    assert_eq!(story.violates(&[]).dead, 1);
}

#[test]
fn each_sink_is_held_against_the_whole_set() {
    let mut story = Story::new([1]).deliver(0, 0, 1);
    story.0.sinks.push(SinkSaw { name: "out".to_owned(), ..SinkSaw::default() });
    story.violates(&[Invariant::Lost]);
}

#[test]
fn an_effect_that_nobody_was_told_of_is_found() {
    Story::new([]).deliver(0, 0, 1).violates(&[Invariant::Foreign]);
}

#[test]
fn what_was_in_flight_at_a_crash_may_be_repeated() {
    let story = Story::new([1]).start(0, 0).effect(1).crash(0, 100).deliver(1, 0, 1);
    let findings = story.violates(&[]);
    assert_eq!((findings.twice, findings.in_flight, findings.not_committed), (1, 1, 0));
    assert_eq!((findings.lane_max, findings.crash_max), (1, 1));
}

#[test]
fn what_was_answered_and_not_committed_at_a_crash_may_be_repeated() {
    let findings = Story::new([1]).deliver(0, 0, 1).crash(0, 100).deliver(1, 0, 1).violates(&[]);
    assert_eq!((findings.twice, findings.in_flight, findings.not_committed), (1, 0, 1));
}

#[test]
fn a_lost_answer_explains_a_second_effect() {
    let mut story = Story::new([1]).start(0, 0).answer(0, 0, 1, Answer::Unknown);
    story.0.journal.lanes.push(("main".to_owned(), "retry".to_owned()));
    let parked = Place { lane: 1, ..place(0) };
    let story = story.note(0, What::Started(parked)).effect(1);
    let story = story.note(0, What::Answered { place: parked, id: 1, turn: [0, 1, 0], answer: Answer::Ok });
    assert_eq!(story.violates(&[]).in_flight, 1);
}

#[test]
fn what_was_committed_must_not_be_repeated_not_even_after_a_crash() {
    let by_base = Story::new([1]).deliver(0, 0, 1).commit(0, 1, &[]).crash(0, 100).deliver(1, 0, 1);
    by_base.violates(&[Invariant::CommittedRepeated, Invariant::Unexplained]);
    let by_bit = Story::new([1]).deliver(0, 3, 1).commit(0, 1, &[0b100]).crash(0, 100).deliver(1, 3, 1);
    by_bit.violates(&[Invariant::CommittedRepeated, Invariant::Unexplained]);
    let not_by_its_neighbour = Story::new([1]).deliver(0, 3, 1).commit(0, 1, &[0b1010]).crash(0, 100).deliver(1, 3, 1);
    not_by_its_neighbour.violates(&[]);
    let not_by_a_later_one = Story::new([1]).deliver(0, 0, 1).crash(0, 100).deliver(1, 0, 1).commit(1, 1, &[]);
    not_by_a_later_one.violates(&[]);
}

#[test]
fn a_replay_needs_a_crash_of_the_process_that_dispatched_before() {
    let story = Story::new([1]).deliver(0, 0, 1).deliver(1, 0, 1);
    story.violates(&[Invariant::WithoutCrash]);
    let of_another = Story::new([1]).deliver(0, 0, 1).crash(1, 101).deliver(1, 0, 1);
    of_another.violates(&[Invariant::WithoutCrash]);
    let mut cut_off = Story::new([1]).deliver(0, 0, 1).deliver(1, 0, 1);
    cut_off.0.cut_off = true;
    cut_off.violates(&[]);
}

#[test]
fn more_replays_than_permits_after_one_crash_are_found() {
    let replay = |count: i64| {
        let ids = || (0..count).map(|offset| (offset, offset as EventId));
        let story = Story::new(ids().map(|(_, id)| id));
        let story = ids().fold(story, |story, (offset, id)| story.deliver(0, offset, id));
        ids().fold(story.crash(0, 100), |story, (offset, id)| story.deliver(2, offset, id))
    };
    assert_eq!(replay(2).violates(&[]).lane_max, 2);
    assert_eq!(replay(3).violates(&[Invariant::OverBound]).lane_max, 3);
    replay(3).crash(0, 100).violates(&[]);
}

#[test]
fn two_records_of_one_id_in_one_lane_must_not_both_be_dispatched() {
    let story = Story::new([1]).deliver(0, 0, 1).deliver(0, 5, 1);
    story.violates(&[Invariant::NotRecognised, Invariant::Unexplained]);
}

#[test]
fn a_second_effect_without_any_cause_is_found() {
    Story::new([1]).deliver(0, 0, 1).effect(1).violates(&[Invariant::Unexplained]);
    Story::new([1]).start(0, 0).answer(0, 0, 1, Answer::Failed).effect(1).effect(1).violates(&[Invariant::Unexplained]);
}

#[test]
fn a_client_that_writes_again_explains_what_it_wrote_beside_a_lost_answer_and_nothing_else() {
    let beside = |at_once: bool| {
        let story = Story::new([1, 2]).start(0, 0).start(0, 1);
        let story = if at_once { story } else { story.answer(0, 1, 2, Answer::Ok) };
        let story = story.answer(0, 0, 1, Answer::Unknown);
        let mut story = if at_once { story.answer(0, 1, 2, Answer::Ok) } else { story }.effect(2);
        story.0.sinks[0].rewrites = true;
        story
    };
    assert_eq!(beside(true).violates(&[]).in_flight, 1);
    beside(false).violates(&[Invariant::Unexplained]);
    let mut of_http = beside(true);
    of_http.0.sinks[0].rewrites = false;
    of_http.violates(&[Invariant::Unexplained]);
}

#[test]
fn an_event_that_its_client_gave_up_may_have_been_written_again_beside_an_earlier_lost_answer() {
    // Three effects of the second event: written, written again beside the first's loss, and delivered by its retry.
    let given_up = |earlier: bool| {
        let story = Story::new([1, 2]).start(0, 0).start(0, 1);
        let story = story.answer(0, 0, 1, if earlier { Answer::Unknown } else { Answer::Ok });
        let mut story = story.answer(0, 1, 2, Answer::Unknown).start(0, 2).effect(2).effect(2);
        story.0.sinks[0].rewrites = true;
        story
    };
    assert_eq!(given_up(true).violates(&[]).in_flight, 2);
    given_up(false).violates(&[Invariant::Unexplained]);
}
