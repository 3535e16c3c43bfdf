//! Latency against offered load, as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::{
    BLACK, ChartBuilder, Color, IntoDrawingArea, IntoLogRange, LineSeries, PathElement, RGBColor, SVGBackend,
    SeriesLabelPosition, WHITE,
};

/// One line.
pub struct Line {
    /// What it shows.
    pub name: String,
    /// Requests a second, and milliseconds.
    pub points: Vec<(f64, f64)>,
}

const COLOURS: [RGBColor; 6] = [
    RGBColor(120, 170, 220),
    RGBColor(20, 90, 170),
    RGBColor(240, 180, 110),
    RGBColor(200, 100, 10),
    RGBColor(150, 200, 150),
    RGBColor(20, 120, 50),
];

/// Writes a plot. The times are on a logarithmic axis.
pub fn write(path: &Path, title: &str, lines: &[Line]) -> Result<()> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let right = points().map(|point| point.0).fold(1.0, f64::max) * 1.02;
    let top = points().map(|point| point.1).fold(0.1, f64::max) * 1.5;
    let bottom = points().map(|point| point.1).fold(top, f64::min) / 1.5;
    let failed = |error: &dyn std::fmt::Display| anyhow!("drawing {}: {error}", path.display());
    let area = SVGBackend::new(path, (900, 560)).into_drawing_area();
    area.fill(&WHITE).map_err(|error| failed(&error))?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..right, (bottom..top).log_scale())
        .map_err(|error| failed(&error))?;
    chart
        .configure_mesh()
        .x_desc("requests offered a second")
        .y_desc("milliseconds from the intended send time")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .draw()
        .map_err(|error| failed(&error))?;
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let colour = *colour;
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)).point_size(3))
            .map_err(|error| failed(&error))?
            .label(line.name.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()
        .map_err(|error| failed(&error))?;
    area.present().map_err(|error| failed(&error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_drawn_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plot.svg");
        let line = |name: &str, ms: f64| Line {
            name: name.to_owned(),
            points: vec![(1000.0, ms), (5000.0, 2.0 * ms), (9000.0, 30.0 * ms)],
        };
        write(&path, "a title", &[line("floor p50", 0.3), line("ours p50", 0.4)]).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        for text in ["<svg", "a title", "floor p50", "ours p50", "requests offered a second", "</svg>"] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(svg.matches("<polyline").count() >= 2, "{svg}");
    }
}
