// SPDX-License-Identifier: MIT OR Apache-2.0
//! When each action is enabled: data only.
//!
//! What QEMU 7.2 and 10.0 do in each run state, without what has no effect or does harm.
//! `stop`, `system_powerdown` and `inject-nmi` are answered with success in every state.
//!
//! | run state | pause | reset | power-down | wakeup | nmi |
//! |---|---|---|---|---|---|
//! | `running` | pauses | yes | yes | | yes |
//! | `paused`, `prelaunch` | resumes | yes | | | |
//! | `io-error`, `guest-panicked`, `watchdog`, `debug`, `postmigrate`, `restore-vm` | resumes | yes | | | |
//! | `shutdown`, `internal-error` | | yes: QEMU resumes them only after a reset | | | |
//! | `suspended` | | yes | | yes | |
//! | `inmigrate`, `finish-migrate`, `save-vm`, `colo` | | | | | |
//! | any other | | | | | |
//!
//! - `quit` is enabled in all of them, and if the run state is not known.
//! - A paused guest receives no interrupt and sees no power button before it runs again.
//! - A suspended guest continues only when it is woken up: 7.2 ignores `stop`, and 10.0
//!   suspends it again at `cont`.
//! - A reset during a migration changes what the destination receives; QEMU
//!   remembers `stop` and `cont` on the incoming side, which shows only at the end.

/// An action of a power menu.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Pause,
    Reset,
    PowerDown,
    Quit,
    Wakeup,
    Nmi,
}

/// What the actions depend on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Situation<'a> {
    /// Whether commands reach QEMU.
    pub(super) reachable: bool,
    /// The run state, if known.
    pub(super) state: Option<&'a str>,
}

/// The enabled actions, and whether the machine is paused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Menu {
    enabled: [bool; Action::ALL.len()],
    pub(super) paused: bool,
}

/// What `pause` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    Pauses,
    Resumes,
    Nothing,
}

impl Action {
    pub(super) const ALL: [Self; 6] = [
        Self::Pause,
        Self::Reset,
        Self::PowerDown,
        Self::Quit,
        Self::Wakeup,
        Self::Nmi,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Reset => "reset",
            Self::PowerDown => "power-down",
            Self::Quit => "quit",
            Self::Wakeup => "wakeup",
            Self::Nmi => "nmi",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }

    /// The QMP command that performs it; `paused` says whether the machine is paused.
    pub(super) const fn command(self, paused: bool) -> &'static str {
        match self {
            Self::Pause if paused => "cont",
            Self::Pause => "stop",
            Self::Reset => "system_reset",
            Self::PowerDown => "system_powerdown",
            Self::Quit => "quit",
            Self::Wakeup => "system_wakeup",
            Self::Nmi => "inject-nmi",
        }
    }
}

impl Menu {
    pub(super) fn of(situation: Situation<'_>) -> Self {
        let (pause, actions) = situation.state.map_or((Pause::Nothing, &[][..]), row);
        let enabled = |action| {
            situation.reachable
                && match action {
                    Action::Quit => true,
                    Action::Pause => pause != Pause::Nothing,
                    other => actions.contains(&other),
                }
        };
        Self {
            enabled: Action::ALL.map(enabled),
            paused: pause == Pause::Resumes,
        }
    }

    pub(super) fn is_enabled(self, action: Action) -> bool {
        self.enabled[action as usize]
    }
}

/// The actions that a run state allows.
fn row(state: &str) -> (Pause, &'static [Action]) {
    use Action::{Nmi, PowerDown, Reset, Wakeup};

    match state {
        "running" => (Pause::Pauses, &[Reset, PowerDown, Nmi]),
        "paused" | "prelaunch" | "io-error" | "guest-panicked" | "watchdog" | "debug"
        | "postmigrate" | "restore-vm" => (Pause::Resumes, &[Reset]),
        "shutdown" | "internal-error" => (Pause::Nothing, &[Reset]),
        "suspended" => (Pause::Nothing, &[Reset, Wakeup]),
        _ => (Pause::Nothing, &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of the enabled actions, and whether the machine is paused.
    fn menu(reachable: bool, state: Option<&str>) -> (Vec<&'static str>, bool) {
        let menu = Menu::of(Situation { reachable, state });
        let enabled = Action::ALL.into_iter().filter(|it| menu.is_enabled(*it));
        (enabled.map(Action::name).collect(), menu.paused)
    }

    #[test]
    fn each_run_state_has_its_menu() {
        let runs = &["pause", "reset", "power-down", "quit", "nmi"][..];
        let stopped = &["pause", "reset", "quit"][..];
        for (state, enabled, paused) in [
            ("running", runs, false),
            ("paused", stopped, true),
            ("prelaunch", stopped, true),
            ("io-error", stopped, true),
            ("guest-panicked", stopped, true),
            ("watchdog", stopped, true),
            ("debug", stopped, true),
            ("postmigrate", stopped, true),
            ("restore-vm", stopped, true),
            ("shutdown", &["reset", "quit"], false),
            ("internal-error", &["reset", "quit"], false),
            ("suspended", &["reset", "quit", "wakeup"], false),
            ("inmigrate", &["quit"], false),
            ("finish-migrate", &["quit"], false),
            ("save-vm", &["quit"], false),
            ("colo", &["quit"], false),
            ("no-such-state", &["quit"], false),
        ] {
            assert_eq!(
                menu(true, Some(state)),
                (enabled.to_vec(), paused),
                "{state}"
            );
            assert_eq!(menu(false, Some(state)), (vec![], paused), "{state}");
        }
        assert_eq!(menu(true, None), (vec!["quit"], false));
        assert_eq!(menu(false, None), (vec![], false));
    }

    #[test]
    fn action_names_round_trip() {
        for (at, action) in Action::ALL.into_iter().enumerate() {
            assert_eq!(action as usize, at);
            assert_eq!(Action::from_name(action.name()), Some(action));
        }
        assert_eq!(Action::from_name("resume"), None);
    }
}
