//! Plain SVG: frames with axes, areas, lines, and shaded times.
//!
//! Owns [`Plot`]. Main invariant: a plot is text that any browser draws without a script; its colours are classes, so
//! that the page's style alone decides how they look by day and by night.

use std::fmt::Write as _;

/// A plot that grows.
pub(super) struct Plot {
    width: f64,
    height: f64,
    x_most_ms: f64,
    y_most: f64,
    svg: String,
}

/// Room for the numbers beside and below.
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 26.0;

impl Plot {
    /// A frame with its axes. `unit` is written at the top of the scale.
    pub(super) fn new(size: (u32, u32), x_most_ms: u64, y_most: f64, unit: &str, title: &str) -> Self {
        let (width, height) = (f64::from(size.0), f64::from(size.1));
        let mut plot = Self {
            width,
            height,
            x_most_ms: whole(x_most_ms.max(1)),
            y_most: y_most.max(1e-9),
            svg: String::new(),
        };
        let _ = write!(
            plot.svg,
            "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{title}\"><title>{title}</title>"
        );
        plot.scale(unit);
        plot.times();
        plot
    }

    fn x(&self, at_ms: f64) -> f64 {
        LEFT + at_ms.min(self.x_most_ms) / self.x_most_ms * (self.width - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        let room = self.height - TOP - BOTTOM;
        TOP + room - (value / self.y_most).clamp(0.0, 1.0) * room
    }

    fn scale(&mut self, unit: &str) {
        let step = round_step(self.y_most / 5.0);
        let mut at = 0.0;
        while at <= self.y_most * 1.000_1 {
            let y = self.y(at);
            let text = short(at);
            let _ = write!(
                self.svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                self.width - RIGHT,
                LEFT - 6.0,
                y + 4.0
            );
            at += step;
        }
        let _ = write!(
            self.svg,
            "<text class=\"tick\" x=\"{:.1}\" y=\"12\" text-anchor=\"end\">{unit}</text>",
            LEFT - 6.0
        );
    }

    fn times(&mut self) {
        let (step_ms, unit_ms, unit) = time_step(self.x_most_ms, self.width);
        let mut at = 0.0;
        while at <= self.x_most_ms * 1.000_1 {
            let x = self.x(at);
            let anchor = if x > self.width - 40.0 { "end" } else { "middle" };
            let _ = write!(
                self.svg,
                "<text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{} {unit}</text>",
                self.height - 8.0,
                short(at / unit_ms)
            );
            at += step_ms;
        }
    }

    /// A time that is shaded.
    pub(super) fn shade(&mut self, class: &str, from_ms: u64, until_ms: u64, title: &str) {
        if whole(from_ms) >= self.x_most_ms {
            return;
        }
        let (from, until) = (self.x(whole(from_ms)), self.x(whole(until_ms)));
        let _ = write!(
            self.svg,
            "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"><title>{title}</title></rect>",
            (until - from).max(1.5),
            self.height - TOP - BOTTOM
        );
    }

    /// The area between two courses of equal steps.
    pub(super) fn area(&mut self, class: &str, step_ms: u64, low: &[f64], high: &[f64], title: &str) {
        let mut path = String::new();
        for (at, value) in high.iter().enumerate() {
            let letter = if at == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{letter}{:.1},{:.1}", self.x(whole(at as u64 * step_ms)), self.y(*value));
        }
        for (at, value) in low.iter().enumerate().rev() {
            let _ = write!(path, "L{:.1},{:.1}", self.x(whole(at as u64 * step_ms)), self.y(*value));
        }
        let _ = write!(self.svg, "<path class=\"{class}\" d=\"{path}Z\"><title>{title}</title></path>");
    }

    /// A course that keeps its value through each step, filled down to zero.
    pub(super) fn steps(&mut self, class: &str, step_ms: u64, values: &[f64], title: &str) {
        let zero = self.y(0.0);
        let mut path = format!("M{LEFT:.1},{zero:.1}");
        for (at, value) in values.iter().enumerate() {
            let (from, until) = (at as u64 * step_ms, (at as u64 + 1) * step_ms);
            let y = self.y(*value);
            let _ = write!(path, "L{:.1},{y:.1}L{:.1},{y:.1}", self.x(whole(from)), self.x(whole(until)));
        }
        let end = self.x(whole(values.len() as u64 * step_ms));
        let _ = write!(
            self.svg,
            "<path class=\"{class}\" d=\"{path}L{end:.1},{zero:.1}Z\"><title>{title}</title></path>"
        );
    }

    /// A line through the ends of equal steps.
    pub(super) fn line(&mut self, class: &str, step_ms: u64, values: &[f64], title: &str) {
        let mut path = String::new();
        for (at, value) in values.iter().enumerate() {
            let letter = if at == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{letter}{:.1},{:.1}", self.x(whole(at as u64 * step_ms)), self.y(*value));
        }
        let _ = write!(self.svg, "<path class=\"{class}\" d=\"{path}\"><title>{title}</title></path>");
    }

    /// A limit: a dashed line with its name on it.
    pub(super) fn limit(&mut self, value: f64, name: &str) {
        let y = self.y(value);
        let _ = write!(
            self.svg,
            "<line class=\"limit\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"limit-name\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>",
            self.width - RIGHT,
            self.width - RIGHT - 4.0,
            y - 5.0
        );
    }

    /// The whole plot.
    pub(super) fn end(mut self) -> String {
        let (bottom, right) = (self.height - BOTTOM, self.width - RIGHT);
        let _ = write!(
            self.svg,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{right:.1}\" y1=\"{bottom:.1}\" y2=\"{bottom:.1}\"/></svg>"
        );
        self.svg
    }
}

/// A step that people count in: 1, 2 or 5 times a power of ten, at least this.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|times| times * power).find(|step| *step >= least * 0.999);
    step.unwrap_or(power * 10.0)
}

/// Between two times on the axis, in milliseconds; the unit's milliseconds and name.
fn time_step(most_ms: f64, width: f64) -> (f64, f64, &'static str) {
    let (unit, name, steps): (f64, _, &[f64]) = match most_ms {
        most if most < 180e3 => (1e3, "s", &[0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0]),
        most if most < 7_200e3 => (60e3, "min", &[0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0]),
        most if most < 172_800e3 => (3_600e3, "h", &[0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 12.0, 24.0]),
        _ => (86_400e3, "d", &[0.5, 1.0, 2.0, 7.0, 14.0, 28.0]),
    };
    let ticks = (width / 110.0).max(3.0);
    let fitting = steps.iter().find(|step| most_ms / (unit * **step) <= ticks);
    (unit * fitting.copied().unwrap_or(steps[steps.len() - 1]), unit, name)
}

/// A number on an axis: no more digits than it needs.
fn short(value: f64) -> String {
    if value >= 10_000.0 {
        return format!("{}k", short(value / 1_000.0));
    }
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A count or a time as a length: plots need no more than a float holds.
#[expect(clippy::cast_precision_loss, reason = "a pixel is far coarser")]
pub(super) fn whole(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_count_as_people_do() {
        assert_eq!([0.3, 1.0, 2_400.0, 7.4].map(round_step), [0.5, 1.0, 5_000.0, 10.0]);
        assert_eq!([0.0, 12.5, 2_500.0, 10_000.0].map(short), ["0", "12.5", "2500", "10k"]);
        assert_eq!(time_step(604_800_000.0, 1_000.0), (86_400_000.0, 86_400_000.0, "d"));
        assert_eq!(time_step(40_000.0, 1_000.0), (5_000.0, 1_000.0, "s"));
    }
}
