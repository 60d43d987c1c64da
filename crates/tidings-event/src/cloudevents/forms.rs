//! The form of a time, as the grammar of RFC 3339 has it: libraries take more than that, and less.

/// Whether a text is a `date-time` of RFC 3339, section 5.6, on a day that exists. A fraction may have any number of digits.
pub(super) fn is_rfc3339(text: &str) -> bool {
    let Some((date, time)) = text.split_once(['T', 't']) else {
        return false;
    };
    is_date(date) && is_time(time)
}

fn is_date(date: &str) -> bool {
    let [year, month, day] = parts(date, '-', [4, 2, 2]);
    let (Some(year), Some(month), Some(day)) = (year, month, day) else {
        return false;
    };
    let number = |value: i16| i8::try_from(value).unwrap_or_default();
    jiff::civil::Date::new(year, number(month), number(day)).is_ok()
}

fn is_time(time: &str) -> bool {
    // The first eight are the time of the day; all of it is ASCII, or no digit stands where one must.
    let Some((clock, rest)) = time.split_at_checked(8) else {
        return false;
    };
    let [hour, minute, second] = parts(clock, ':', [2, 2, 2]);
    let zone = match rest.strip_prefix('.') {
        None => rest,
        Some(fraction) => {
            let zone = fraction.trim_start_matches(|it: char| it.is_ascii_digit());
            if zone.len() == fraction.len() {
                return false;
            }
            zone
        }
    };
    // A leap second is one more.
    within(hour, 23) && within(minute, 59) && within(second, 60) && is_zone(zone)
}

fn is_zone(zone: &str) -> bool {
    let Some(offset) = zone.strip_prefix(['+', '-']) else {
        return matches!(zone, "Z" | "z");
    };
    let [hour, minute] = parts(offset, ':', [2, 2]);
    within(hour, 23) && within(minute, 59)
}

fn within(value: Option<i16>, most: i16) -> bool {
    value.is_some_and(|value| value <= most)
}

/// The numbers of a text, each of so many digits.
fn parts<const N: usize>(text: &str, between: char, digits: [usize; N]) -> [Option<i16>; N] {
    let mut given = text.split(between);
    let numbers = digits.map(|digits| {
        let part = given.next()?;
        let numeric = part.len() == digits && part.bytes().all(|it| it.is_ascii_digit());
        numeric.then(|| part.parse().ok())?
    });
    match given.next() {
        None => numbers,
        Some(_) => [None; N],
    }
}

#[cfg(test)]
mod tests {
    use super::is_rfc3339;

    #[test]
    fn times_are_held_to_the_grammar() {
        for good in [
            "2026-01-31T12:00:00Z",
            "2026-01-31t12:00:00z",
            "2024-02-29T23:59:60.123456789012+14:00",
            "0000-01-01T00:00:00.0-00:00",
            "9999-12-31T23:59:59-23:59",
        ] {
            assert!(is_rfc3339(good), "{good}");
        }
        for bad in [
            "",
            "T",
            "2026-01-31",
            "2026-01-31T12Z",
            "2026-01-31T12:00Z",
            "20260131T120000Z",
            "2026-01-31T12:00:00",
            "2026-01-31 12:00:00Z",
            "2026-01-31T12:00:00,5Z",
            "2026-01-31T12:00:00.Z",
            "2026-01-31T12:00:00+0100",
            "2026-01-31T12:00:00+01:00[Europe/Berlin]",
            "+002026-01-31T12:00:00Z",
            "2026-02-29T12:00:00Z",
            "2026-13-01T12:00:00Z",
            "2026-00-01T12:00:00Z",
            "2026-01-31T24:00:00Z",
            "2026-01-31T12:60:00Z",
            "2026-01-31T12:00:61Z",
            "2026-01-31T12:00:00+24:00",
            "2026-01-31T12:00:00Z ",
            "2026-01-31T12:00:0\u{e9}Z",
            "2026-01-31T\u{661}2:00:00Z",
        ] {
            assert!(!is_rfc3339(bad), "{bad}");
        }
    }
}
