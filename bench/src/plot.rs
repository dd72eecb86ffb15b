//! Line plots as SVG, without a plotting library, which would be larger than this program.

use std::fmt::Write as _;

/// Size of the image and of its margins, in pixels.
const SIZE: (f64, f64) = (720.0, 400.0);
const LEFT: f64 = 80.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Distinguishable with red-green colour blindness (Okabe-Ito palette).
const COLOURS: [&str; 5] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9"];
/// The approximate number of ticks on an axis.
const TICKS: f64 = 5.0;

/// One line of a plot.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A line plot whose vertical axis starts at zero.
#[derive(Debug)]
pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
    /// Whether the horizontal axis is logarithmic.
    pub(crate) logarithmic: bool,
    pub(crate) lines: &'a [Line],
}

impl Plot<'_> {
    pub(crate) fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| line.points.iter().copied());
        let (left, right) =
            points().fold((f64::MAX, f64::MIN), |(low, high), (x, _)| (low.min(x), high.max(x)));
        let highest = points().fold(0.0, |high: f64, (_, y)| high.max(y));
        let step = step(highest);
        let top = (highest / step).ceil().max(1.0) * step;
        let scale = |x: f64| if self.logarithmic { x.ln() } else { x };
        let width = (scale(right) - scale(left)).max(f64::MIN_POSITIVE);
        let across = |x: f64| LEFT + (scale(x) - scale(left)) / width * (SIZE.0 - LEFT - RIGHT);
        let down = |y: f64| SIZE.1 - BOTTOM - y / top * (SIZE.1 - TOP - BOTTOM);

        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>\n",
            SIZE.0, SIZE.1, self.title
        );
        let mut tick = 0.0;
        while tick <= top + step / 2.0 {
            let y = down(tick);
            let end = SIZE.0 - RIGHT;
            let _ = writeln!(svg, "<path d=\"M{LEFT} {y:.1}H{end}\" stroke=\"#ddd\"/>");
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 8.0,
                y + 4.0,
                format_tick(tick)
            );
            tick += step;
        }
        for x in self.ticks(left, right) {
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                across(x),
                SIZE.1 - BOTTOM + 18.0,
                format_tick(x)
            );
        }
        let middle = f64::midpoint(LEFT, SIZE.0 - RIGHT);
        let _ = writeln!(
            svg,
            "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            SIZE.1 - 10.0,
            self.x
        );
        let _ = writeln!(
            svg,
            "<text transform=\"translate(16 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            SIZE.1 / 2.0,
            self.y
        );
        for (place, line) in self.lines.iter().enumerate() {
            let colour = COLOURS[place % COLOURS.len()];
            let path: Vec<_> =
                line.points.iter().map(|&(x, y)| format!("{:.1},{:.1}", across(x), down(y))).collect();
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                path.join(" ")
            );
            for point in path {
                let (x, y) = point.split_once(',').unwrap_or_default();
                let _ = writeln!(svg, "<circle cx=\"{x}\" cy=\"{y}\" r=\"3\" fill=\"{colour}\"/>");
            }
            let height = TOP + 20.0 * f64::from(u8::try_from(place).unwrap_or(u8::MAX));
            let x = SIZE.0 - RIGHT + 12.0;
            let _ = writeln!(svg, "<text x=\"{x}\" y=\"{height}\" fill=\"{colour}\">{}</text>", line.name);
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// The ticks of the horizontal axis: every point if there are few, otherwise regular steps.
    fn ticks(&self, left: f64, right: f64) -> Vec<f64> {
        let mut ticks: Vec<f64> =
            self.lines.iter().flat_map(|line| line.points.iter().map(|(x, _)| *x)).collect();
        ticks.sort_by(f64::total_cmp);
        ticks.dedup();
        if ticks.len() > 12 {
            let step = step(right - left);
            let mut at = (left / step).ceil() * step;
            ticks.clear();
            while at <= right {
                ticks.push(at);
                at += step;
            }
        }
        ticks
    }
}

/// The distance between ticks: 1, 2 or 5 times a power of ten, so that about [`TICKS`] of them cover the range.
fn step(range: f64) -> f64 {
    let rough = (range / TICKS).max(f64::MIN_POSITIVE);
    let power = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|n| n * power).find(|step| *step >= rough).unwrap_or(10.0 * power)
}

fn format_tick(number: f64) -> String {
    if number >= 1e6 {
        format!("{}M", number / 1e6)
    } else if number >= 1e3 {
        format!("{}k", number / 1e3)
    } else {
        // Rounds off the floating-point error of a sum of steps.
        format!("{}", (number * 1e3).round() / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_draws_every_point_and_labels_every_line() {
        let lines = [
            Line { name: "wwproxy".into(), points: vec![(1.0, 900.0), (64.0, 12_000.0)] },
            Line { name: "ceiling".into(), points: vec![(1.0, 4000.0), (64.0, 20_000.0)] },
        ];
        let svg = Plot { title: "t", x: "senders", y: "events/s", logarithmic: true, lines: &lines }.svg();
        assert_eq!(svg.matches("<circle").count(), 4);
        for text in ["wwproxy", "ceiling", "senders", ">20k<", ">64<"] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        assert_eq!([4.9, 12_000.0, 1.0].map(|range| format_tick(step(range))), ["1", "5k", "0.2"]);
    }
}
