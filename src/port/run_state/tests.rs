// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of the run state.

use super::*;

const SECOND: i64 = 1_000_000;

fn info(status: &str, running: bool) -> StatusInfo {
    StatusInfo::new(status, running)
}

fn ready(status: &str, running: bool) -> RunState {
    let state = RunState::default();
    state.begin();
    assert!(state.is_question_due(0));
    state.asked(0);
    assert!(state.answered(0, Ok(info(status, running)), false));
    state
}

fn status(state: &RunState) -> String {
    state.known().unwrap().status
}

#[test]
fn events_establish_the_state() {
    let action = |action| Some(format!(r#"{{"action":"{action}"}}"#));
    let migration = |status| Some(format!(r#"{{"status":"{status}"}}"#));
    let cases = [
        ("running", "STOP", None, "paused"),
        ("io-error", "STOP", None, "io-error"),
        ("paused", "RESUME", None, "running"),
        ("running", "SUSPEND", None, "suspended"),
        ("suspended", "WAKEUP", None, "running"),
        ("running", "RESET", None, "running"),
        ("shutdown", "RESET", None, "prelaunch"),
        ("inmigrate", "RESET", None, "inmigrate"),
        ("running", "SHUTDOWN", None, "shutdown"),
        (
            "running",
            "GUEST_PANICKED",
            action("pause"),
            "guest-panicked",
        ),
        ("running", "GUEST_PANICKED", action("run"), "running"),
        ("running", "WATCHDOG", action("pause"), "watchdog"),
        ("running", "WATCHDOG", action("reset"), "running"),
        ("running", "BLOCK_IO_ERROR", action("stop"), "io-error"),
        ("running", "BLOCK_IO_ERROR", action("report"), "running"),
        (
            "running",
            "MIGRATION",
            migration("pre-switchover"),
            "finish-migrate",
        ),
        (
            "paused",
            "MIGRATION",
            migration("completed"),
            "finish-migrate",
        ),
        (
            "inmigrate",
            "MIGRATION",
            migration("completed"),
            "inmigrate",
        ),
        ("running", "RTC_CHANGE", None, "running"),
        (
            "running",
            "GUEST_PANICKED",
            Some("no JSON".into()),
            "running",
        ),
    ];
    for (before, event, data, after) in cases {
        let state = ready(before, before == "running");
        state.event(0, event, data.as_deref(), false);
        assert_eq!(status(&state), after, "{event} in {before}");
        assert_eq!(state.known().unwrap().running, after == "running");
        assert!(!state.is_mute());
    }
}

#[test]
fn a_spice_port_is_mute_until_the_machine_runs_again() {
    let state = ready("running", true);
    let stop = Some(r#"{"action":"stop"}"#);
    assert!(state.event(0, "BLOCK_IO_ERROR", stop, true));
    assert!(state.is_mute() && !state.is_question_due(0));
    assert!(state.event(0, "RESET", None, true));
    assert!(state.is_mute(), "a reset does not change that");
    assert!(state.event(0, "RESUME", None, true));
    assert!(state.is_mute() && status(&state) == "running");
    state.expire(249_999);
    assert!(state.is_mute(), "the guest may panic at once");
    state.expire(250_000);
    assert!(!state.is_mute() && state.is_question_due(250_000));

    // Events of a machine that was just resumed do not keep it mute.
    for (event, after) in [("RESET", "running"), ("STOP", "paused")] {
        let state = ready("running", true);
        state.event(0, "BLOCK_IO_ERROR", stop, true);
        state.event(0, "RESUME", None, true);
        state.event(1, event, None, true);
        assert_eq!(status(&state), after);
        state.expire(250_000);
        assert!(
            !state.is_mute() && state.is_question_due(250_000),
            "{event}"
        );
    }

    let state = ready("paused", false);
    let completed = Some(r#"{"status":"completed"}"#);
    assert!(state.event(0, "MIGRATION", completed, true));
    assert!(!state.is_mute(), "it was paused before");

    let state = ready("running", true);
    assert!(state.event(0, "MIGRATION", completed, true));
    assert!(state.is_mute() && status(&state) == "postmigrate");

    // An answer may show it, where there was no event.
    let state = ready("running", true);
    state.answered(0, Ok(info("finish-migrate", false)), true);
    assert!(state.is_mute() && state.next().is_none());
}

#[test]
fn a_migration_of_a_stopped_machine_is_followed_to_its_end_on_spice() {
    for before in ["paused", "prelaunch"] {
        let state = ready(before, false);
        let completed = Some(r#"{"status":"completed"}"#);
        assert!(state.event(0, "MIGRATION", completed, true));
        assert!(state.is_question_due(0));
        state.asked(0);
        // QEMU reports the end of the migration before it sets the state.
        assert!(!state.answered(0, Ok(info("finish-migrate", false)), true));
        let at = state.next().expect("it asks again");
        state.expire(at);
        assert!(state.is_question_due(at));
        state.asked(at);
        assert!(state.answered(at, Ok(info("postmigrate", false)), true));
        assert_eq!(state.next(), None);
        assert!(!state.is_mute());
    }
    // Nothing is known of how the first answer of a session came about.
    let state = RunState::default();
    state.begin();
    state.asked(0);
    assert!(state.answered(0, Ok(info("finish-migrate", false)), true));
    assert!(state.next().is_none() && !state.is_mute());
}

#[test]
fn a_transient_state_is_asked_for_again_with_growing_pauses() {
    let state = ready("inmigrate", false);
    let mut asked = Vec::new();
    while let Some(at) = state.next() {
        state.expire(at - 1);
        assert!(!state.is_question_due(at));
        state.expire(at);
        assert!(state.is_question_due(at));
        state.asked(at);
        assert!(!state.answered(at, Ok(info("inmigrate", false)), false));
        asked.push(at);
    }
    let pauses: Vec<_> = asked.windows(2).map(|two| two[1] - two[0]).collect();
    assert_eq!(
        pauses[..5],
        [500_000, SECOND, 2 * SECOND, 4 * SECOND, 4 * SECOND]
    );
    assert_eq!(asked[0], 250_000);
    assert!(asked.last().unwrap() <= &(60 * SECOND));
    // Then only a command or an event asks.
    state.command_answered();
    assert!(state.is_question_due(61 * SECOND));
    for settled in ["postmigrate", "colo", "paused"] {
        assert_eq!(ready(settled, false).next(), None, "{settled}");
    }
}

#[test]
fn a_lost_answer_does_not_block_the_next_question() {
    let state = ready("running", true);
    state.event(0, "STOP", None, false);
    state.asked(0);
    state.event(SECOND, "RESUME", None, false);
    assert!(!state.is_question_due(SECOND), "one at a time");
    assert!(state.is_question_due(10 * SECOND));
}

#[test]
fn a_server_without_query_status_is_asked_once() {
    let state = RunState::default();
    state.begin();
    state.asked(0);
    assert!(!state.is_settled());
    let refusal = Error::Command {
        command: "query-status".into(),
        class: ErrorClass::CommandNotFound,
        desc: "not found".into(),
    };
    assert!(!state.answered(0, Err(refusal), false));
    assert!(state.is_settled() && state.known().is_none());
    state.event(0, "MIGRATION", None, false);
    assert!(!state.is_question_due(60 * SECOND));
    state.end();
    state.begin();
    assert!(state.is_question_due(0), "a new session is asked anew");
}

#[test]
fn an_impossible_state_name_is_refused() {
    for name in ["run\\u0000ning".to_owned(), "x".repeat(LONGEST_NAME + 1)] {
        let reply = format!(r#"{{"running":true,"status":"{name}"}}"#);
        assert!(StatusInfo::decode("query-status", &reply).is_err());
    }
    let longest = "x".repeat(LONGEST_NAME);
    let reply = format!(r#"{{"running":true,"status":"{longest}"}}"#);
    assert_eq!(StatusInfo::decode("", &reply).unwrap().status, longest);
}
