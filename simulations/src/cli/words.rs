//! Numbers as people read them: durations, bytes, counts.
//!
//! Owns the words of reports. Main invariant: the same number reads the same everywhere.

/// `1234567` as `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time in its two largest units: `5 d 4 h`, `12 min 3 s`, `36.6 s`.
pub(crate) fn duration(ms: u64) -> String {
    let (seconds, minutes, hours) = (ms / 1_000, ms / 60_000, ms / 3_600_000);
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 if ms % 1_000 < 100 => format!("{seconds} s"),
        1_000..120_000 => format!("{}.{} s", seconds, ms % 1_000 / 100),
        120_000..7_200_000 => format!("{} min {} s", minutes, seconds % 60),
        7_200_000..172_800_000 => format!("{} h {} min", hours, minutes % 60),
        172_800_000.. => format!("{} d {} h", hours / 24, hours % 24),
    }
}

/// Bytes in the largest decimal unit that leaves a number above one.
pub(crate) fn bytes(number: u64) -> String {
    let units = [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match units.into_iter().find(|(unit, _)| number >= *unit) {
        Some((unit, name)) => format!("{} {name}", hundredths(number, unit)),
        None => format!("{number} B"),
    }
}

/// A bit rate in the largest decimal unit that leaves a number above one.
pub(crate) fn rate(bit_s: u64) -> String {
    let units = [(1_000_000_000, "Gbit/s"), (1_000_000, "Mbit/s"), (1_000, "kbit/s")];
    match units.into_iter().find(|(unit, _)| bit_s >= *unit) {
        Some((unit, name)) => format!("{} {name}", hundredths(bit_s, unit)),
        None => format!("{bit_s} bit/s"),
    }
}

/// How many times one number is another, with two decimals, rounded up: a multiple must not look smaller.
pub(crate) fn times(number: u64, of: u64) -> String {
    if of == 0 {
        return "–".to_owned();
    }
    let hundredth = (u128::from(number) * 100).div_ceil(u128::from(of));
    if hundredth >= 10_000 {
        return format!("{} ×", count(u64::try_from(hundredth / 100).unwrap_or(u64::MAX)));
    }
    format!("{}.{:02} ×", hundredth / 100, hundredth % 100)
}

/// How many of a whole, as percent with one decimal.
pub(crate) fn percent(number: u64, of: u64) -> String {
    if of == 0 {
        return "–".to_owned();
    }
    let tenths = u128::from(number) * 1_000 / u128::from(of);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// A quotient with at most two decimals and no zeros at the end.
fn hundredths(number: u64, unit: u64) -> String {
    let hundredth = (u128::from(number) * 100 + u128::from(unit) / 2) / u128::from(unit);
    let text = format!("{}.{:02}", hundredth / 100, hundredth % 100);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_say_them() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [7, 1_000, 36_640, 723_000, 15_120_000, 446_400_000].map(duration),
            ["7 ms", "1 s", "36.6 s", "12 min 3 s", "4 h 12 min", "5 d 4 h"]
        );
        assert_eq!(
            [5, 262_144, 100_000_000, 2_000_000_000].map(bytes),
            ["5 B", "262.14 kB", "100 MB", "2 GB"]
        );
        assert_eq!([300, 2_500_000, 30_000_000].map(rate), ["300 bit/s", "2.5 Mbit/s", "30 Mbit/s"]);
        assert_eq!(
            (times(100, 100), times(101, 1_000), times(1, 0)),
            ("1.00 ×".into(), "0.11 ×".into(), "–".into())
        );
        assert_eq!((percent(1, 3), percent(3, 3)), ("33.3 %".into(), "100.0 %".into()));
    }
}
