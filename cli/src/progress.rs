//! A status line at the bottom of the terminal.

use std::sync::Arc;

use console::Term;
use parking_lot::Mutex;

use crate::output::print_message;

/// The status line, shared by all writers to the terminal. There is none if stderr is not a terminal.
#[derive(Clone)]
pub(crate) struct Progress(Arc<Mutex<Line>>);

struct Line {
    terminal: Option<Term>,
    text: String,
    /// How many [`Hidden`] guards exist.
    hidden: usize,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let terminal = Some(Term::stderr()).filter(Term::is_term);
        Self(Arc::new(Mutex::new(Line { terminal, text: String::new(), hidden: 0 })))
    }

    /// Sets the text of the line.
    pub(crate) fn set(&self, text: &str) {
        self.change(|line| {
            line.clear();
            text.clone_into(&mut line.text);
            line.draw();
        });
    }

    /// Prints a message above the line.
    pub(crate) fn print_message(&self, text: &str) {
        self.change(|line| {
            line.clear();
            print_message(text);
            line.draw();
        });
    }

    /// Hides the line until the guard is dropped.
    pub(crate) fn hidden(&self) -> Hidden<'_> {
        self.change(|line| {
            line.clear();
            line.hidden += 1;
        });
        Hidden(self)
    }

    fn change(&self, change: impl FnOnce(&mut Line)) {
        change(&mut self.0.lock());
    }
}

/// Hides the status line while something else is written to the terminal.
pub(crate) struct Hidden<'a>(&'a Progress);

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        self.0.change(|line| {
            line.hidden -= 1;
            line.draw();
        });
    }
}

// Errors are ignored: the status line is only decoration.
impl Line {
    fn clear(&self) {
        if let Some(terminal) = self.visible() {
            let _ = terminal.clear_line();
        }
    }

    fn draw(&self) {
        if let Some(terminal) = self.visible() {
            let width = usize::from(terminal.size().1).saturating_sub(1);
            let _ = terminal.write_str(&console::truncate_str(&self.text, width, "…"));
        }
    }

    fn visible(&self) -> Option<&Term> {
        self.terminal.as_ref().filter(|_| self.hidden == 0 && !self.text.is_empty())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.clear();
    }
}
