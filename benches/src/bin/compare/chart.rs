//! A line chart as SVG, by hand: two axes, each linear from zero or logarithmic, and a line for each series.

use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
/// Where the lines are drawn.
const LEFT: f64 = 76.0;
const RIGHT: f64 = WIDTH - 24.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = HEIGHT - 52.0;
/// One for each series.
const COLOURS: [&str; 4] = ["#06c", "#c50", "#383", "#828"];
/// More ticks than this on a logarithmic axis, and only powers of ten are marked.
const TICKS_MAX: usize = 12;

/// One axis.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    /// What it counts, with its unit.
    pub(crate) label: &'static str,
    /// Otherwise it is linear, from zero.
    pub(crate) logarithmic: bool,
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Series {
    /// Its name in the legend.
    pub(crate) name: &'static str,
    /// From left to right.
    pub(crate) points: Vec<(f64, f64)>,
}

/// A chart to be.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    /// The line above it.
    pub(crate) title: String,
    /// From left to right.
    pub(crate) x: Axis,
    /// From bottom to top.
    pub(crate) y: Axis,
    /// As many as there are colours.
    pub(crate) series: Vec<Series>,
}

impl Chart {
    /// The whole file.
    pub(crate) fn svg(&self) -> String {
        let all = || self.series.iter().flat_map(|series| &series.points);
        let x = Range::of(all().map(|p| p.0), self.x.logarithmic);
        let y = Range::of(all().map(|p| p.1), self.y.logarithmic);
        let (place_x, place_y) = (|v| LEFT + x.place(v) * (RIGHT - LEFT), |v| BOTTOM - y.place(v) * (BOTTOM - TOP));
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
        );
        for tick in x.ticks() {
            let (at, text) = (place_x(tick), number(tick));
            line(&mut svg, (at, TOP), (at, BOTTOM), "#ddd");
            text_at(&mut svg, (at, BOTTOM + 18.0), "middle", &text);
        }
        for tick in y.ticks() {
            let (at, text) = (place_y(tick), number(tick));
            line(&mut svg, (LEFT, at), (RIGHT, at), "#ddd");
            text_at(&mut svg, (LEFT - 8.0, at + 4.0), "end", &text);
        }
        line(&mut svg, (LEFT, TOP), (LEFT, BOTTOM), "#444");
        line(&mut svg, (LEFT, BOTTOM), (RIGHT, BOTTOM), "#444");
        text_at(&mut svg, (LEFT, 22.0), "start", &self.title);
        text_at(&mut svg, (LEFT, TOP - 10.0), "middle", self.y.label);
        text_at(&mut svg, ((LEFT + RIGHT) / 2.0, BOTTOM + 40.0), "middle", self.x.label);
        for (i, (series, colour)) in self.series.iter().zip(COLOURS).enumerate() {
            let points: Vec<_> = series.points.iter().map(|&(h, v)| (place_x(h), place_y(v))).collect();
            polyline(&mut svg, &points, colour);
            let at = (RIGHT - 240.0 + 120.0 * i as f64, TOP - 14.0);
            line(&mut svg, (at.0, at.1), (at.0 + 20.0, at.1), colour);
            text_at(&mut svg, (at.0 + 26.0, at.1 + 4.0), "start", series.name);
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// What an axis spans.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Range {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Range {
    /// Wide enough for all values; its ends are round numbers.
    fn of(values: impl Iterator<Item = f64>, logarithmic: bool) -> Self {
        let fit = |v: &f64| v.is_finite() && (!logarithmic || *v > 0.0);
        let (low, high) =
            values.filter(fit).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            return Self { low: f64::from(u8::from(logarithmic)), high: 10.0, logarithmic };
        }
        if logarithmic {
            // A range of one value is none.
            return Self { low: round_below(low), high: round_above(high.max(low * 2.0)), logarithmic };
        }
        let step = step(high.max(f64::MIN_POSITIVE));
        Self { low: 0.0, high: (high / step - 1e-9).ceil().max(1.0) * step, logarithmic }
    }

    /// Where a value is: from 0 at the low end to 1 at the high one.
    fn place(&self, value: f64) -> f64 {
        let (low, high, value) = if self.logarithmic {
            (self.low.ln(), self.high.ln(), value.max(self.low).ln())
        } else {
            (self.low, self.high, value)
        };
        (value - low) / (high - low)
    }

    fn ticks(&self) -> Vec<f64> {
        if !self.logarithmic {
            let step = step(self.high);
            return (0..).map(|n| f64::from(n) * step).take_while(|v| *v <= self.high * (1.0 + 1e-9)).collect();
        }
        let mut ticks = vec![self.low];
        while let Some(last) = ticks.last().copied().filter(|last| *last < self.high * (1.0 - 1e-9)) {
            ticks.push(round_above(last * 1.5));
        }
        if ticks.len() > TICKS_MAX {
            ticks.retain(|v| (v.log10() - v.log10().round()).abs() < 1e-9);
        }
        ticks
    }
}

/// The distance between ticks from zero to a value: about five of them.
fn step(high: f64) -> f64 {
    round_above(high / 5.0)
}

/// The next of 1, 2 and 5 times a power of ten that is not below.
fn round_above(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0].map(|n| n * power).into_iter().find(|v| *v >= value * (1.0 - 1e-9)).unwrap_or(power * 10.0)
}

/// The last of them that is not above.
fn round_below(value: f64) -> f64 {
    let power = 10f64.powf((value * (1.0 + 1e-9)).log10().floor());
    [5.0, 2.0].map(|n| n * power).into_iter().find(|v| *v <= value * (1.0 + 1e-9)).unwrap_or(power)
}

/// A number as ticks have it: thousands apart, and no more digits than it needs.
fn number(value: f64) -> String {
    let rounded = (value * 1e6).round() / 1e6;
    if rounded < 1e3 {
        return rounded.to_string();
    }
    let digits = format!("{rounded:.0}");
    let groups: Vec<&str> = {
        let first = (digits.len() - 1) % 3 + 1;
        let rest = digits.as_bytes()[first..].chunks(3).map(|group| std::str::from_utf8(group).unwrap_or_default());
        std::iter::once(&digits[..first]).chain(rest).collect()
    };
    groups.join(",")
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let path = format!("M{:.1} {:.1}L{:.1} {:.1}", from.0, from.1, to.0, to.1);
    // Writing to a string never fails.
    let _ = writeln!(svg, "<path d=\"{path}\" stroke=\"{colour}\"/>");
}

fn polyline(svg: &mut String, points: &[(f64, f64)], colour: &str) {
    let list: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ =
        writeln!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>", list.join(" "));
    for (x, y) in points {
        let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{colour}\"/>");
    }
}

fn text_at(svg: &mut String, at: (f64, f64), anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{text}</text>", at.0, at.1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_axes_begin_at_zero_and_end_at_a_round_number() {
        let range = Range::of([3.0, 43.0].into_iter(), false);
        assert_eq!((range.low, range.high), (0.0, 50.0));
        assert_eq!(range.ticks(), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]);
        assert_eq!((range.place(0.0), range.place(25.0), range.place(50.0)), (0.0, 0.5, 1.0));
        assert_eq!(Range::of([0.0].into_iter(), false).place(0.0), 0.0);
    }

    #[test]
    fn logarithmic_axes_have_1_2_and_5_times_powers_of_ten() {
        let range = Range::of([3.0, 43.0].into_iter(), true);
        assert_eq!(range.ticks().iter().map(|v| number(*v)).collect::<Vec<_>>(), ["2", "5", "10", "20", "50"]);
        assert!((range.place(10.0) - 0.5).abs() < 1e-9);
        let wide = Range::of([1.0, 1e6].into_iter(), true);
        assert_eq!(wide.ticks().iter().map(|v| number(*v)).collect::<Vec<_>>()[5..], ["100,000", "1,000,000"]);
    }

    #[test]
    fn ranges_of_one_value_and_of_none_are_ranges() {
        for logarithmic in [false, true] {
            for values in [vec![], vec![7.0], vec![f64::NAN]] {
                let range = Range::of(values.into_iter(), logarithmic);
                assert!(range.low < range.high && range.place(range.high) == 1.0, "{range:?}");
            }
        }
    }

    #[test]
    fn numbers() {
        assert_eq!([0.2 + 0.1, 12.0, 1024.0, 1_234_567.0].map(number), ["0.3", "12", "1,024", "1,234,567"]);
    }

    #[test]
    fn a_chart_has_a_line_for_each_series_and_its_name() {
        let series = |name, high| Series { name, points: vec![(1.0, 1.0), (1024.0, high)] };
        let axis = |label, logarithmic| Axis { label, logarithmic };
        let chart = Chart {
            title: "p99 < limit".into(),
            x: axis("clients", true),
            y: axis("µs", false),
            series: vec![series("one", 40.0), series("another", 50.0)],
        };
        let svg = chart.svg();
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<circle").count()), (2, 4));
        assert!(svg.contains(">another<") && svg.contains("p99 &lt; limit") && svg.contains(">1,000<"), "{svg}");
        assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN"), "{svg}");
    }
}
