// SPDX-License-Identifier: MIT OR Apache-2.0
//! Formats times as text.

/// A time in microseconds since 1970, in UTC, for programs.
pub(crate) fn utc(micros: i64) -> String {
    let (seconds, micros) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    let time = glib::DateTime::from_unix_utc(seconds);
    let time = time.and_then(|time| time.format("%Y-%m-%dT%H:%M:%S"));
    time.map(|time| format!("{time}.{micros:06}Z"))
        .unwrap_or_default()
}

/// The current time, likewise.
pub(crate) fn utc_now() -> String {
    utc(glib::real_time())
}

/// The current local time, for people.
pub(crate) fn local_time() -> String {
    let time = glib::DateTime::now_local().and_then(|now| now.format("%H:%M:%S"));
    time.map(String::from).unwrap_or_default()
}

/// A time in seconds since 1970, likewise.
pub(crate) fn local_date(seconds: i64) -> String {
    let time = glib::DateTime::from_unix_local(seconds);
    let time = time.and_then(|time| time.format("%Y-%m-%d %H:%M:%S"));
    time.map_or_else(|_| "-".to_owned(), String::from)
}

#[cfg(test)]
mod tests {
    #[test]
    fn utc() {
        assert_eq!(super::utc(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(
            super::utc(1_795_747_365_000_042),
            "2026-11-27T02:42:45.000042Z"
        );
    }
}
