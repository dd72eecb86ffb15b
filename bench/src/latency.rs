//! Latency samples and their percentiles.

use std::{fmt, time::Duration};

/// All samples, in microseconds.
#[derive(Debug, Default, Clone)]
pub(crate) struct Latencies(Vec<u32>);

/// The 50th, 99th and 99.9th percentile.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Percentiles {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) p999: Duration,
}

impl Latencies {
    pub(crate) fn add(&mut self, latency: Duration) {
        self.0.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.extend(&other.0);
    }

    pub(crate) fn percentiles(&self) -> Percentiles {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = |per_mille: usize| {
            let place = (sorted.len() * per_mille / 1000).min(sorted.len().saturating_sub(1));
            Duration::from_micros(sorted.get(place).copied().unwrap_or(0).into())
        };
        Percentiles { p50: at(500), p99: at(990), p999: at(999) }
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        write!(f, "{:.2} | {:.2} | {:.2}", ms(self.p50), ms(self.p99), ms(self.p999))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_cover_all_samples() {
        let mut latencies = Latencies::default();
        for ms in (1..=1000).rev() {
            latencies.add(Duration::from_millis(ms));
        }
        let Percentiles { p50, p99, p999 } = latencies.percentiles();
        assert_eq!([p50, p99, p999].map(|time| time.as_millis()), [501, 991, 1000]);
        assert_eq!(Latencies::default().percentiles().p99, Duration::ZERO);
    }
}
