//! One pass over JSON text for what `serde_json` leaves unsaid when it only skips a value.
//!
//! Finds nesting that is too deep, lone surrogates in `\u` escapes and numbers beyond 64 bits. It
//! does not prove the text to be JSON: `serde_json` does that next. Constant stack, any input.

/// Why a text is not acceptable JSON.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Defect {
    #[error("nested too deeply")]
    Nesting,
    #[error("lone surrogate in a string")]
    Surrogate,
    #[error("number beyond 64 bits")]
    Number,
}

/// What the pass saw.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Scanned {
    /// No white space outside strings.
    pub(super) compact: bool,
}

/// Reads `text` once; `max_nesting` counts the outermost object or array as 1.
pub(super) fn scan(text: &str, max_nesting: usize) -> Result<Scanned, Defect> {
    let mut bytes = text.as_bytes();
    let mut depth = 0_usize;
    let mut compact = true;
    while let Some((&byte, rest)) = bytes.split_first() {
        bytes = match byte {
            b'"' => skip_string(rest)?,
            b'-' | b'0'..=b'9' => check_number(bytes)?,
            _ => rest,
        };
        match byte {
            b'{' | b'[' => {
                depth += 1;
                if depth > max_nesting {
                    return Err(Defect::Nesting);
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b' ' | b'\t' | b'\n' | b'\r' => compact = false,
            _ => {}
        }
    }
    Ok(Scanned { compact })
}

/// `rest` starts behind the opening quote; gives what follows the closing one.
fn skip_string(mut rest: &[u8]) -> Result<&[u8], Defect> {
    loop {
        let Some(at) = rest.iter().position(|b| matches!(b, b'"' | b'\\')) else {
            return Ok(&[]);
        };
        let (_, tail) = rest.split_at(at);
        rest = match tail {
            [b'\\', b'u', after @ ..] => skip_unicode(after)?,
            [b'\\', _, after @ ..] => after,
            [b'"', after @ ..] => return Ok(after),
            _ => return Ok(&[]),
        };
    }
}

/// `after` starts behind `\u`. Bad hex digits are left to the JSON reader.
fn skip_unicode(after: &[u8]) -> Result<&[u8], Defect> {
    let Some((first, rest)) = hex4(after) else {
        return Ok(after);
    };
    match first {
        0xD800..=0xDBFF => match rest {
            [b'\\', b'u', low @ ..] => match hex4(low) {
                Some((0xDC00..=0xDFFF, rest)) => Ok(rest),
                _ => Err(Defect::Surrogate),
            },
            _ => Err(Defect::Surrogate),
        },
        0xDC00..=0xDFFF => Err(Defect::Surrogate),
        _ => Ok(rest),
    }
}

fn hex4(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, rest) = bytes.split_at_checked(4)?;
    let mut value = 0;
    for &digit in digits {
        value = value * 16 + char::from(digit).to_digit(16)?;
    }
    Some((value, rest))
}

fn check_number(bytes: &[u8]) -> Result<&[u8], Defect> {
    let is_part = |b: &u8| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    let end = bytes.iter().position(|b| !is_part(b)).unwrap_or(bytes.len());
    let (number, rest) = bytes.split_at(end);
    let fits = match std::str::from_utf8(number) {
        // Fewer than 19 digits always fit, and no float this short without an exponent is infinite.
        Ok(text) if text.len() < 19 && !text.contains(['e', 'E']) => true,
        Ok(text) if text.contains(['.', 'e', 'E']) => {
            // Not a number at all: the JSON reader says so.
            text.parse::<f64>().map_or(true, f64::is_finite)
        }
        Ok(text) => text.parse::<u64>().is_ok() || text.parse::<i64>().is_ok(),
        Err(_) => true,
    };
    if fits { Ok(rest) } else { Err(Defect::Number) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_defect_is_found_and_its_neighbour_is_not() {
        let cases = [
            (r#"{"a":"\ud83d\ude00"}"#, None),
            (r#"{"a":"\\ud83d"}"#, None),
            (r#"{"a":"\ud83d"}"#, Some(Defect::Surrogate)),
            (r#"{"a":"\ud83dx\ude00"}"#, Some(Defect::Surrogate)),
            (r#"{"a":"\ude00"}"#, Some(Defect::Surrogate)),
            (r#"{"\uD83D\uD83D":1}"#, Some(Defect::Surrogate)),
            (r#"{"a":18446744073709551615}"#, None),
            (r#"{"a":18446744073709551616}"#, Some(Defect::Number)),
            (r#"{"a":-9223372036854775808}"#, None),
            (r#"{"a":-9223372036854775809}"#, Some(Defect::Number)),
            (r#"{"a":1e308}"#, None),
            (r#"{"a":1e309}"#, Some(Defect::Number)),
            (r#"{"a":-1e309}"#, Some(Defect::Number)),
            (r#"{"a":"1e309 [[["}"#, None),
            (r#"{"a":[[1]]}"#, None),
            (r#"{"a":[[[]]]}"#, Some(Defect::Nesting)),
        ];
        for (text, defect) in cases {
            assert_eq!(scan(text, 3).err(), defect, "{text}");
        }
        assert_eq!(scan("{\"a b\":1}", 3), Ok(Scanned { compact: true }));
        assert_eq!(scan("{\"a\": 1}", 3), Ok(Scanned { compact: false }));
        for stump in ["\"", "\"\\", "\"\\u", "\"\\u12", "\"\\ud83d\\u", "-", "", "]]]]"] {
            let _ = scan(stump, 3);
        }
    }
}
