//! One line at the bottom of a terminal that says how things stand.

use std::sync::Arc;

use console::Term;
use parking_lot::Mutex;

use crate::output::print_message;

/// Shared by all who write to the terminal. Where stderr is none there is no line.
#[derive(Clone)]
pub(crate) struct Progress(Arc<Mutex<Line>>);

struct Line {
    terminal: Option<Term>,
    text: String,
    /// How many writers want it out of their way.
    hidden: usize,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let terminal = Some(Term::stderr()).filter(Term::is_term);
        Self(Arc::new(Mutex::new(Line { terminal, text: String::new(), hidden: 0 })))
    }

    /// What the line says from now on.
    pub(crate) fn set(&self, text: &str) {
        self.change(|line| {
            line.clear();
            text.clone_into(&mut line.text);
            line.draw();
        });
    }

    /// Tells the person something, above the line.
    pub(crate) fn print_message(&self, text: &str) {
        self.change(|line| {
            line.clear();
            print_message(text);
            line.draw();
        });
    }

    /// Takes the line away for as long as the guard lives.
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

/// While it lives something else has the terminal.
pub(crate) struct Hidden<'a>(&'a Progress);

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        self.0.change(|line| {
            line.hidden -= 1;
            line.draw();
        });
    }
}

// A terminal that cannot be written to has nobody before it.
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
