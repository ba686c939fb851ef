//! The latency of queries at a fixed moderate rate, alone and beside something else that goes on at the same time: an
//! open loop, as in a closed one what slows queries down also makes them fewer.

use std::io;

use pgsluice_benches::load::{Load, Mode, Report, Target};

use crate::bench::Bench;
use crate::pooler::Pooler;
use crate::setup::Pair;
use crate::stats::{Paired, median};

const SELECT: &str = "SELECT 1";
/// The part of the slower pooler's closed-loop rate that both are loaded with.
const MODERATE: f64 = 0.3;
/// What the tail beside others may be, to that alone.
const TARGET: f64 = 2.0;

/// A rate that both poolers bear with ease, in queries per second.
///
/// # Errors
/// Those of the measurements.
pub(crate) fn moderate_rate(bench: &Bench, pair: &Pair, clients: usize) -> io::Result<f64> {
    let rate =
        |pooler: &Pooler| Ok::<_, io::Error>(bench.measure(&bench.load(pooler, Mode::Simple, SELECT, clients))?.rate());
    Ok(rate(&pair.ours)?.min(rate(&pair.theirs)?) * MODERATE)
}

/// The load: queries at a rate, by so many clients, to a target.
pub(crate) fn open_loop(bench: &Bench, pair: &Pair, target: &Target, clients: usize, rate: f64) -> Load {
    let load = bench.load(&pair.ours, Mode::Simple, SELECT, clients);
    Load { target: target.clone(), rate: Some(rate), watch: Vec::new(), ..load }
}

/// What was measured in front of one pooler. In its pairs, the first is beside others and the second is alone.
#[derive(Default)]
pub(crate) struct Beside {
    p50: Paired,
    p99: Paired,
    /// How much the others got done per second.
    others: Vec<f64>,
}

impl Beside {
    /// Measures once each, alone and beside what `beside` adds to the load, which also tells how much of that got done
    /// per second; in an order that changes with the round.
    ///
    /// # Errors
    /// The first of a measurement.
    pub(crate) fn measure(
        &mut self,
        bench: &Bench,
        round: usize,
        load: &Load,
        beside: impl Fn(&Load) -> io::Result<(Report, f64)>,
    ) -> io::Result<()> {
        let (with, others, alone);
        if round.is_multiple_of(2) {
            alone = bench.measure(load)?;
            (with, others) = beside(load)?;
        } else {
            (with, others) = beside(load)?;
            alone = bench.measure(load)?;
        }
        let quantile = |report: &Report, q| report.latency.quantile_us(q);
        self.p50.push(quantile(&with, 0.5), quantile(&alone, 0.5));
        self.p99.push(quantile(&with, 0.99), quantile(&alone, 0.99));
        self.others.push(others);
        Ok(())
    }

    /// The heading of a table of these; `others` is what the last column counts.
    pub(crate) fn heading(others: &str) {
        println!("| through | p50 alone | beside | p99 alone | beside | ratio | lowest–highest | target | {others} |");
        println!("|---|---|---|---|---|---|---|---|---|");
    }

    /// One line of the table; the target is pgsluice's.
    pub(crate) fn row(&self, through: &str, has_target: bool) {
        let (ratio, low, high) = self.p99.ratio();
        let missed = if ratio <= TARGET { "" } else { ", missed" };
        let target = if has_target { format!("≤ {TARGET:.2}{missed}") } else { "–".into() };
        println!(
            "| {through} | {:.0} | {:.0} | {:.0} | {:.0} | {ratio:.2} | {low:.2}–{high:.2} | {target} | {:.0} |",
            self.p50.theirs(),
            self.p50.ours(),
            self.p99.theirs(),
            self.p99.ours(),
            median(&self.others),
        );
    }
}
