//! What is measured, each by a command of its own.

mod apps;
mod backlog;
mod fairness;
mod growth;
mod idle;
mod ingest;
mod live;

pub(crate) use self::{
    apps::Apps, backlog::Backlog, fairness::Fairness, growth::Growth, idle::Idle, ingest::Ingest, live::Live,
};

const MIB: u64 = 1 << 20;

/// The middle one of each turn's ratio to the turn beside it: a machine that is slow for a while is so for both.
fn median_ratio(turns: &[f64], beside: &[f64]) -> f64 {
    median(turns.iter().zip(beside).map(|(turn, beside)| turn / beside).collect())
}

/// The middle one of these measurements.
fn median(mut measured: Vec<f64>) -> f64 {
    measured.sort_by(f64::total_cmp);
    measured.get(measured.len() / 2).copied().unwrap_or(0.0)
}
