//! The benchmarks, one for each subcommand.

mod apps;
mod backlog;
mod fairness;
mod growth;
mod idle;
mod ingest;
mod live;
mod verify;

pub(crate) use self::{
    apps::Apps, backlog::Backlog, fairness::Fairness, growth::Growth, idle::Idle, ingest::Ingest, live::Live,
    verify::Verify,
};

const MIB: u64 = 1 << 20;

/// The median of paired ratios: run and baseline of a pair follow each other, so a slow phase of the machine affects both.
fn median_ratio(runs: &[f64], baselines: &[f64]) -> f64 {
    median(runs.iter().zip(baselines).map(|(run, baseline)| run / baseline).collect())
}

/// The median, or 0 without samples.
fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(0.0)
}
