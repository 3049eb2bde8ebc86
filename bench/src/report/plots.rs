//! The page's plots, as SVG beside it.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::model::Results;

const SIZE: (u32, u32) = (760, 320);

/// One line of a plot: its name and its points.
type Line = (String, Vec<(f64, f64)>);

/// Draws what there are results for; the file names with what each shows.
///
/// # Errors
/// When a file cannot be written.
pub(super) fn draw(results: &Results, folder: &Path) -> Result<Vec<(&'static str, &'static str)>> {
    let mut drawn = Vec::new();
    let mut plot = |file: &'static str, title: &'static str, x: &str, y: &str, lines: Vec<Line>| -> Result<()> {
        if lines.iter().any(|(_, points)| points.len() > 1) {
            line_plot(&folder.join(file), x, y, &lines)?;
            drawn.push((file, title));
        }
        Ok(())
    };
    plot("latency.svg", "POST latency by percentile, at shares of the ceiling", "nines", "ms", curves(results))?;
    plot("throughput.svg", "Orders that became final in each second, end to end", "s", "orders", finals(results))?;
    plot("memory.svg", "Resident memory of the four services during the soak", "min", "MB", memory(results))?;
    let shares = cpu(results);
    if !shares.is_empty() {
        bars(&folder.join("cpu.svg"), "CPU seconds for 1,000 orders", &shares)?;
        drawn.push(("cpu.svg", "CPU seconds for 1,000 orders, by process"));
    }
    let ablations = ablations(results);
    if ablations.len() > 1 {
        bars(&folder.join("ablations.svg"), "orders/s", &ablations)?;
        drawn.push(("ablations.svg", "End to end orders/s with one thing switched off"));
    }
    Ok(drawn)
}

/// The share as a number of nines (90 % is 1, 99 % is 2): the tail is what matters.
fn nines(share: f64) -> f64 {
    -(1.0 - share.min(0.999_95)).log10()
}

fn curves(results: &Results) -> Vec<Line> {
    let Some(post) = results.rounds.first().and_then(|round| round.post.as_ref()) else { return Vec::new() };
    let line = |at: &crate::scenarios::post::AtShare| {
        let points = at.latency.curve.iter().map(|(share, ms)| (nines(*share), *ms)).collect();
        (format!("{} %", at.percent), points)
    };
    post.at_share.iter().map(line).collect()
}

#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark fit")]
fn finals(results: &Results) -> Vec<Line> {
    let rounds = results.rounds.iter().enumerate().filter_map(|(index, round)| {
        let per_second = &round.end_to_end.as_ref()?.final_per_second;
        let points = per_second.iter().enumerate().map(|(second, count)| (second as f64, *count as f64)).collect();
        Some((format!("round {}", index + 1), points))
    });
    rounds.collect()
}

#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark fit")]
fn memory(results: &Results) -> Vec<Line> {
    let Some(soak) = &results.soak else { return Vec::new() };
    let points = soak.resident_mb.iter().enumerate().map(|(index, mb)| ((index + 1) as f64 / 6.0, *mb)).collect();
    vec![("all four services".to_owned(), points)]
}

fn cpu(results: &Results) -> Vec<(String, f64)> {
    let Some(run) = results.rounds.first().and_then(|round| round.end_to_end.as_ref()) else { return Vec::new() };
    run.cpu_per_thousand.0.iter().map(|(name, seconds)| (name.clone(), *seconds)).collect()
}

fn ablations(results: &Results) -> Vec<(String, f64)> {
    let runs = crate::plan::ABLATIONS.iter().zip(&results.ablations);
    runs.filter_map(|((name, _), run)| Some(((*name).to_owned(), run.as_ref()?.orders_per_second))).collect()
}

fn line_plot(file: &Path, x: &str, y: &str, lines: &[Line]) -> Result<()> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let (right, top) = points().fold((0.1_f64, 0.1_f64), |(right, top), (x, y)| (right.max(*x), top.max(*y)));
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(drawing)?;
    let mut builder = ChartBuilder::on(&area);
    builder.margin(10).x_label_area_size(36).y_label_area_size(56);
    let mut chart = builder.build_cartesian_2d(0.0..right, 0.0..top * 1.05).map_err(drawing)?;
    chart.configure_mesh().x_desc(x).y_desc(y).light_line_style(WHITE).draw().map_err(drawing)?;
    for (index, (name, points)) in lines.iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        let series = LineSeries::new(points.iter().copied(), color.stroke_width(2));
        let drawn = chart.draw_series(series).map_err(drawing)?;
        drawn.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw().map_err(drawing)?;
    area.present().map_err(drawing)
}

fn bars(file: &Path, unit: &str, values: &[(String, f64)]) -> Result<()> {
    let top = values.iter().map(|(_, value)| *value).fold(0.001, f64::max);
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(drawing)?;
    let mut builder = ChartBuilder::on(&area);
    builder.margin(10).x_label_area_size(36).y_label_area_size(150);
    let range = (0..values.len()).into_segmented();
    let mut chart = builder.build_cartesian_2d(0.0..top * 1.15, range).map_err(drawing)?;
    let name = |position: &SegmentValue<usize>| match position {
        SegmentValue::CenterOf(index) => values.get(*index).map_or_else(String::new, |(name, _)| name.clone()),
        SegmentValue::Exact(_) | SegmentValue::Last => String::new(),
    };
    let mut mesh = chart.configure_mesh();
    mesh.disable_y_mesh().light_line_style(WHITE).x_desc(unit).y_labels(values.len()).y_label_formatter(&name);
    mesh.draw().map_err(drawing)?;
    let bars = values.iter().enumerate().map(|(index, (_, value))| {
        let (from, to) = (SegmentValue::Exact(index), SegmentValue::Exact(index + 1));
        let mut bar = Rectangle::new([(0.0, from), (*value, to)], Palette99::pick(0).filled());
        bar.set_margin(4, 4, 0, 0);
        bar
    });
    chart.draw_series(bars).map_err(drawing)?;
    area.present().map_err(drawing)
}

fn drawing(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("drawing: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nines_spread_the_tail() {
        for (share, wanted) in [(0.0, 0.0), (0.9, 1.0), (0.99, 2.0), (0.999, 3.0)] {
            assert!((nines(share) - wanted).abs() < 1e-9, "{share}: {}", nines(share));
        }
        assert!(nines(1.0).is_finite());
    }

    #[test]
    fn plots_are_drawings_with_their_names_on_them() -> Result<()> {
        let folder = local_stack::Scratch::new("plots")?;
        let file = folder.path().join("x.svg");
        line_plot(&file, "s", "orders", &[("round 1".to_owned(), vec![(0.0, 1.0), (1.0, 5.0)])])?;
        assert!(std::fs::read_to_string(&file)?.contains("round 1"));
        bars(&file, "orders/s", &[("as it is".to_owned(), 10.0), ("one lane".to_owned(), 5.0)])?;
        assert!(std::fs::read_to_string(&file)?.contains("one lane"));
        Ok(())
    }
}
