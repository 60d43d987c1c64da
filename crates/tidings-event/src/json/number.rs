//! The numbers of a text by their decimal value: a double does not tell long ones apart.

use super::{Kind, digest};

/// A decimal with so many digits at most is the only one that reads as its double.
const ONLY_DIGITS: usize = 15;
/// A whole number with so many digits at most is compared as one.
const WHOLE_DIGITS: i64 = 20;

/// The numbers of a strict JSON text, in their order. Nothing is looked for until one is asked for.
pub(super) struct Numbers<'t> {
    rest: &'t [u8],
    passed: usize,
}

impl<'t> Numbers<'t> {
    pub(super) fn of(text: &'t str) -> Self {
        Self {
            rest: text.as_bytes(),
            passed: 0,
        }
    }

    /// The next one is not asked for.
    pub(super) fn pass(&mut self) {
        self.passed += 1;
    }

    /// The next one, as it is written.
    pub(super) fn take(&mut self) -> &'t [u8] {
        let passed = std::mem::take(&mut self.passed);
        let mut number: &[u8] = &[];
        for _ in 0..=passed {
            number = self.find();
        }
        number
    }

    fn find(&mut self) -> &'t [u8] {
        let mut at = 0;
        while let Some(byte) = self.rest.get(at) {
            match byte {
                b'"' => at = end_of_text(self.rest, at + 1),
                b'-' | b'0'..=b'9' => break,
                _ => at += 1,
            }
        }
        let found = &self.rest[at.min(self.rest.len())..];
        let of_one = |byte: &u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
        let length = found.iter().position(|byte| !of_one(byte));
        let (number, rest) = found.split_at(length.unwrap_or(found.len()));
        self.rest = rest;
        number
    }
}

/// Behind the quotation mark that ends a string, which begins at a place.
fn end_of_text(text: &[u8], mut at: usize) -> usize {
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

/// The digest of a number that is no integer of 64 bits, by its text and the double that is next to it. However a value is
/// written (`1`, `1.0`, `1e0`), it is the same. (Exponents beyond 64 bits count as the last one within.)
pub(super) fn digest_of(number: &[u8], double: f64) -> u128 {
    let as_double = || digest(Kind::Float, &double.to_bits().to_le_bytes());
    // As most fractions are: with a point among so few, no exponent, and nothing that could be a whole number.
    let short = number.len() <= ONLY_DIGITS + 1 && !number.iter().any(u8::is_ascii_alphabetic);
    if short && double.fract() != 0.0 {
        return as_double();
    }
    let decimal = Decimal::of(number);
    if let Some(whole) = decimal.whole() {
        return digest(Kind::Integer, &whole.to_le_bytes());
    }
    let only = decimal.digits.len() <= ONLY_DIGITS && double.is_normal();
    if only || decimal == Decimal::of(format!("{double:e}").as_bytes()) {
        return as_double();
    }
    let mut bytes = decimal.digits;
    bytes.push(u8::from(decimal.negative));
    bytes.extend_from_slice(&decimal.exponent.to_le_bytes());
    digest(Kind::Decimal, &bytes)
}

/// A decimal: its digits as a whole number, times ten to the power of the exponent.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    negative: bool,
    /// Without zeros at either end; none of zero.
    digits: Vec<u8>,
    exponent: i64,
}

impl Decimal {
    fn of(number: &[u8]) -> Self {
        let negative = number.first() == Some(&b'-');
        let (mut digits, mut exponent, mut fraction) = (Vec::with_capacity(24), 0_i64, false);
        let mut bytes = number[usize::from(negative)..].iter();
        for byte in bytes.by_ref() {
            match byte {
                b'.' => fraction = true,
                // A sign that no exponent follows is in no number: the text is refused for it, once it is read so far.
                b'e' | b'E' | b'+' | b'-' => break,
                digit => {
                    exponent -= i64::from(fraction);
                    if *digit != b'0' || !digits.is_empty() {
                        digits.push(*digit);
                    }
                }
            }
        }
        exponent = exponent.saturating_add(exponent_of(bytes.as_slice()));
        while digits.last() == Some(&b'0') {
            digits.pop();
            exponent = exponent.saturating_add(1);
        }
        let zero = digits.is_empty();
        Self {
            negative: negative && !zero,
            digits,
            exponent: if zero { 0 } else { exponent },
        }
    }

    /// The value, if it is a whole number that is not too long.
    fn whole(&self) -> Option<i128> {
        let digits = i64::try_from(self.digits.len()).ok()?;
        if self.exponent < 0 || digits.saturating_add(self.exponent) > WHOLE_DIGITS {
            return None;
        }
        let digit = |value: i128, digit: &u8| value * 10 + i128::from(digit - b'0');
        let digits = self.digits.iter().fold(0, digit);
        let value = digits * 10_i128.pow(u32::try_from(self.exponent).ok()?);
        Some(if self.negative { -value } else { value })
    }
}

fn exponent_of(text: &[u8]) -> i64 {
    let negative = text.first() == Some(&b'-');
    let digits = text.iter().filter(|byte| byte.is_ascii_digit());
    let value = digits.fold(0_i64, |value, digit| {
        value
            .saturating_mul(10)
            .saturating_add(i64::from(digit - b'0'))
    });
    if negative { -value } else { value }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::check;
    use super::*;

    #[test]
    fn each_number_is_found_past_texts_that_look_like_one() {
        let text = r#"{"1":[-2.5e3,"3\"4\\",0],"\u0035":6,"x":[7E-1, true ,8]}"#;
        let mut numbers = Numbers::of(text);
        assert_eq!(numbers.take(), b"-2.5e3");
        numbers.pass();
        numbers.pass();
        assert_eq!(numbers.take(), b"7E-1");
        assert_eq!(numbers.take(), b"8");
        assert_eq!(numbers.take(), b"");
    }

    #[test]
    fn numbers_are_told_apart_by_their_value() {
        let same = |one: &str, other: &str| {
            assert_eq!(check(one).unwrap(), check(other).unwrap(), "{one} {other}");
        };
        let differ = |one: &str, other: &str| {
            assert_ne!(check(one).unwrap(), check(other).unwrap(), "{one} {other}");
        };
        same("1", "1.0");
        same("1", "10e-1");
        same("1", "1e0");
        same("-0", "0");
        same("0e5", "0.000");
        same("9007199254740993.0", "9007199254740993");
        same("18446744073709551616", "1.8446744073709551616e19");
        same("1.5", "0.15E+1");
        same("5e-324", "0.5e-323");
        same("1e20", "100000000000000000000");
        differ("123456789012345678901", "123456789012345678902");
        differ("9007199254740993.0", "9007199254740992.0");
        differ("0.1", "0.1000000000000000055511151231257827");
        differ("123456789012345.678901234567890", "123456789012345.67");
        differ("1e-400", "0");
        differ("1e-400", "1e-401");
        differ("4.9e-324", "5e-324");
        differ("1.5", "-1.5");
        // A key that was given with one before this was so is still known.
        let double = digest(Kind::Float, &(0.1_f64 + 0.2).to_bits().to_le_bytes());
        assert_eq!(check("0.30000000000000004").unwrap().0, double);
    }

    /// A number, its digits as a whole number, and what they are to be multiplied with as a power of ten.
    fn written() -> impl Strategy<Value = (String, String, i32)> {
        let forms = (
            any::<bool>(),
            "[1-9][0-9]{0,29}",
            0..35_usize,
            0..4_usize,
            -20..20_i32,
        );
        forms.prop_map(|(negative, digits, places, zeros, exponent)| {
            let long = format!(
                "{}{digits}",
                "0".repeat(places.saturating_sub(digits.len() - 1))
            );
            let (whole, fraction) = long.split_at(long.len() - places.min(long.len() - 1));
            let zeros = "0".repeat(zeros);
            let sign = if negative { "-" } else { "" };
            let behind = i32::try_from(fraction.len()).unwrap();
            let point = if fraction.is_empty() && zeros.is_empty() {
                ""
            } else {
                "."
            };
            let text = format!("{sign}{whole}{point}{fraction}{zeros}e{exponent}");
            let plain = digits.trim_end_matches('0');
            let more = i32::try_from(digits.len() - plain.len()).unwrap();
            (text, format!("{sign}{plain}"), exponent - behind + more)
        })
    }

    proptest! {
        #[test]
        fn equal_decimals_and_no_others_are_equal((one, digits, power) in written(), (other, others, its) in written()) {
            let fingerprint = |text: &str| check(text).unwrap();
            prop_assert_eq!(fingerprint(&one), fingerprint(&format!("{digits}e{power}")));
            prop_assert_eq!((digits, power) == (others, its), fingerprint(&one) == fingerprint(&other));
        }

        #[test]
        fn neighbours_differ(digits in "[1-9][0-9]{15,40}", last in 0..9_u8, power in -300..200_i32) {
            let fingerprint = |last: u8| check(&format!("[{digits}{last}e{power}]")).unwrap();
            prop_assert_ne!(fingerprint(last), fingerprint(last + 1));
        }
    }
}
