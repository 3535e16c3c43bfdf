//! Talking to the user: results on standard output, everything else on standard error.

use std::fmt::Display;
use std::io::{IsTerminal, Write, stderr, stdout};

use serde::Serialize;

/// A line of the result. Nobody reading any more is no failure of the command.
pub(crate) fn line(text: impl Display) {
    if cfg!(test) {
        // So that the test harness captures it.
        return println!("{text}");
    }
    let mut out = stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// The result, or a part of it, as one line of JSON.
pub(crate) fn json(value: &impl Serialize) {
    line(serde_json::to_string(value).expect("our results have text keys and finite numbers"));
}

/// Text that is shown over what was shown before, from the first line of the terminal on. Nobody reading any more is an error.
pub(crate) fn redraw(text: &str) -> std::io::Result<()> {
    let mut out = stdout().lock();
    let text = text.trim_end().replace('\n', "\x1b[K\r\n");
    write!(out, "\x1b[H{text}\x1b[K\x1b[J")?;
    out.flush()
}

/// A screen of its own on the terminal, for [`redraw`]: what was there before is there again when this is dropped.
pub(crate) struct Screen(());

impl Screen {
    /// Switches to it.
    pub(crate) fn open() -> Self {
        let _ = write!(stdout().lock(), "\x1b[?1049h\x1b[?25l");
        Self(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = stdout().lock();
        let _ = write!(out, "\x1b[?25h\x1b[?1049l").and_then(|()| out.flush());
    }
}

/// A line about the work.
pub(crate) fn note(text: impl Display) {
    let _ = writeln!(stderr().lock(), "{text}");
}

/// Colours, if standard output is a terminal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint(bool);

impl Paint {
    /// For standard output. `NO_COLOR` switches colours off.
    pub(crate) fn for_stdout() -> Self {
        Self(stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
    }

    /// None.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self(false)
    }

    /// What is as it should be.
    pub(crate) fn good(self, text: impl Display) -> String {
        self.code("32", text)
    }

    /// What is not.
    pub(crate) fn bad(self, text: impl Display) -> String {
        self.code("31;1", text)
    }

    /// What is to be seen first.
    pub(crate) fn strong(self, text: impl Display) -> String {
        self.code("1", text)
    }

    fn code(self, code: &str, text: impl Display) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

/// A number in groups of three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let shown = [0, 7, 999, 1000, 10_000, 1_234_567].map(grouped);
        assert_eq!(shown, ["0", "7", "999", "1 000", "10 000", "1 234 567"]);
    }

    #[test]
    fn without_a_terminal_there_are_no_colours() {
        assert_eq!(Paint(false).bad("x"), "x");
        assert_eq!(Paint(true).bad("x"), "\x1b[31;1mx\x1b[0m");
    }
}
