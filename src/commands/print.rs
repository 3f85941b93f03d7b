//! What commands print: lines on stdout. Logs go elsewhere.

use std::fmt::Display;
use std::io::Write;

use super::Failure;

/// Prints a line.
pub(super) fn line(text: impl Display) -> Result<(), Failure> {
    writeln!(std::io::stdout().lock(), "{text}").map_err(Failure::failed)
}

/// Prints name and number under each other.
pub(super) fn table(rows: &[(&str, u64)]) -> Result<(), Failure> {
    rows.iter().try_for_each(|(name, number)| line(format_args!("{name:<16}{number:>14}")))
}
