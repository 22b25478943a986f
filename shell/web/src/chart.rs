//! Small charts as SVG, drawn on the server.

use crate::qr::escape;

const WIDTH: f64 = 240.0;
const HEIGHT: f64 = 48.0;
/// Room for the line's own width.
const MARGIN: f64 = 2.0;

/// Draws values over time as a line with the area below it. A gap (`None`) interrupts the line.
/// `label` says in words what is to be seen. `None`: there is nothing to draw.
pub fn line(values: &[Option<f64>], label: &str) -> Option<String> {
    let highest = values.iter().flatten().copied().fold(0.0, f64::max);
    if values.len() < 2 || values.iter().all(Option::is_none) {
        return None;
    }
    let scale = if highest > 0.0 { (HEIGHT - 2.0 * MARGIN) / highest } else { 0.0 };
    let step = WIDTH / (values.len() - 1) as f64;
    let points: Vec<Option<(f64, f64)>> = values
        .iter()
        .enumerate()
        .map(|(n, value)| value.map(|value| (n as f64 * step, HEIGHT - MARGIN - value * scale)))
        .collect();
    let (mut line, mut area) = (String::new(), String::new());
    for run in points.split(Option::is_none) {
        let run: Vec<(f64, f64)> = run.iter().flatten().copied().collect();
        let [first, .., last] = run.as_slice() else { continue };
        let along: Vec<String> = run.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        let along = along.join("L");
        line.push_str(&format!("M{along}"));
        area.push_str(&format!("M{:.1} {HEIGHT}L{along}L{:.1} {HEIGHT}z", first.0, last.0));
    }
    Some(format!(
        "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" \
         role=\"img\" aria-label=\"{}\"><path class=\"chart-area\" d=\"{area}\"/>\
         <path class=\"chart-line\" d=\"{line}\"/></svg>",
        escape(label)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_spans_the_chart_and_stops_at_gaps() {
        let svg = line(&[Some(0.0), Some(10.0), None, Some(5.0), Some(5.0)], "Traffic").unwrap();
        assert!(svg.contains("M0.0 46.0L60.0 2.0"));
        assert!(svg.contains("M180.0 24.0L240.0 24.0"));
        assert!(line(&[None, None], "").is_none());
        assert!(line(&[Some(0.0), Some(0.0)], "").is_some());
    }
}
