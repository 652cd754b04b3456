//! The plots, as SVG.

use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use super::record::{Line, Record};
use crate::outcome::Outcome;

/// A plot that was made.
#[derive(Debug)]
pub(super) struct Plot {
    pub(super) file: String,
    pub(super) caption: String,
}

/// Some points, and whose they are.
#[derive(Debug)]
struct Curve<'a> {
    name: &'a str,
    points: Vec<(f64, f64)>,
}

/// What a plot says of itself.
#[derive(Clone, Copy, Debug)]
struct Labels<'a> {
    caption: &'a str,
    x: &'a str,
    y: &'a str,
}

const SIZE: (u32, u32) = (960, 560);

/// Makes all plots for which there are rows.
pub(super) fn draw(record: &Record, directory: &Path) -> Outcome<Vec<Plot>> {
    let mut plots = Vec::new();
    let mut plot =
        |file: &str, labels: Labels<'_>, curves: Vec<Curve<'_>>, axis: Axis| -> Outcome<()> {
            if curves.iter().any(|curve| !curve.points.is_empty()) {
                lines(&directory.join(file), labels, &curves, axis)?;
                plots.push(Plot { file: file.to_owned(), caption: labels.caption.to_owned() });
            }
            Ok(())
        };
    for (scenario, placement, clients, file, caption) in [
        (
            "echo",
            "two-cpus",
            1,
            "latency-echo.svg",
            "Latency distributions: echo of 64 B, two CPUs",
        ),
        (
            "paced",
            "two-cpus",
            1,
            "latency-paced.svg",
            "Latency distributions: a request every ms, 64 B",
        ),
        (
            "clients",
            "unpinned",
            8,
            "latency-clients.svg",
            "Latency distributions: 8 clients, the worst of them",
        ),
        (
            "crowded",
            "unpinned",
            4,
            "latency-crowded.svg",
            "Latency distributions: 4 clients on a crowded machine",
        ),
    ] {
        let rows = chosen(record, |line| {
            line.scenario == scenario
                && line.placement == placement
                && line.clients == clients
                && line.size == 64
        });
        let curves =
            rows.map(|line| Curve { name: &line.system, points: nines(line, &record.quantiles) });
        let labels = Labels { caption, x: "percentile", y: "ns" };
        plot(file, labels, curves.collect(), Axis::Nines)?;
    }
    let labels =
        Labels { caption: "Cost over size: echo, two CPUs", x: "bytes each way", y: "p50, ns" };
    let sizes =
        series(record, |line| line.scenario == "echo", |line| (whole(line.size), line.p50_ns));
    plot("size.svg", labels, sizes, Axis::Log)?;
    let labels = Labels {
        caption: "Throughput over clients, unpinned",
        x: "clients",
        y: "requests a second, all together",
    };
    let clients = series(
        record,
        |line| line.scenario == "clients",
        |line| (f64::from(line.clients), line.per_second),
    );
    plot("clients.svg", labels, clients, Axis::Log)?;
    for (scenario, placement, file, caption) in [
        ("echo", "two-cpus", "cpu-echo.svg", "CPU against latency: echo of 64 B, two CPUs"),
        ("paced", "two-cpus", "cpu-paced.svg", "CPU against latency: a request every ms"),
        ("one-cpu", "one-cpu", "cpu-one-cpu.svg", "CPU against latency: both sides on one CPU"),
    ] {
        let rows = chosen(record, |line| {
            line.scenario == scenario
                && line.placement == placement
                && (line.size == 64 || line.size == 8)
        });
        let points = rows.map(|line| Curve {
            name: &line.system,
            points: vec![(line.p50_ns, line.cpu_ns_per_op)],
        });
        let labels = Labels { caption, x: "p50, ns", y: "CPU of both sides for each call, ns" };
        plot(file, labels, points.collect(), Axis::Log)?;
    }
    Ok(plots)
}

/// The measured rows that a plot is of.
fn chosen<'a>(
    record: &'a Record,
    wanted: impl Fn(&Line) -> bool + 'a,
) -> impl Iterator<Item = &'a Line> {
    record.rows.iter().filter(move |line| line.error.is_none() && wanted(line))
}

/// The points of each system that has more than one.
fn series<'a>(
    record: &'a Record,
    wanted: impl Fn(&Line) -> bool + 'a,
    point: impl Fn(&Line) -> (f64, f64),
) -> Vec<Curve<'a>> {
    let mut curves: Vec<Curve<'a>> = Vec::new();
    for line in chosen(record, wanted) {
        match curves.iter_mut().find(|curve| curve.name == line.system) {
            Some(curve) => curve.points.push(point(line)),
            None => curves.push(Curve { name: &line.system, points: vec![point(line)] }),
        }
    }
    for curve in &mut curves {
        curve.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    curves.retain(|curve| curve.points.len() > 1);
    curves
}

/// The last point that is drawn, in nines: the maximum has no place of its own.
const MOST_NINES: f64 = 4.0;

/// A distribution over the nines of its percentile: 0.9 lies at 1, 0.99 at 2.
fn nines(line: &Line, quantiles: &[f64]) -> Vec<(f64, f64)> {
    let points = quantiles.iter().zip(&line.quantiles_ns);
    points
        .map(|(quantile, nanos)| (-(1.0 - quantile).log10(), *nanos))
        .filter(|(nines, nanos)| *nines <= MOST_NINES + 0.01 && *nanos > 0.0)
        .collect()
}

fn whole(number: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "sizes of messages are far below 2^52")]
    let number = number as f64;
    number
}

/// What the x axis is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Axis {
    Nines,
    Log,
}

/// The span of some figures, with a margin, for a logarithmic axis.
fn span(figures: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let least = figures.clone().filter(|figure| *figure > 0.0).fold(f64::INFINITY, f64::min);
    let most = figures.fold(0.0, f64::max);
    (least / 1.3, most.max(least) * 1.5)
}

fn lines(path: &Path, labels: Labels<'_>, curves: &[Curve<'_>], axis: Axis) -> Outcome<()> {
    let backend = SVGBackend::new(path, SIZE).into_drawing_area();
    backend.fill(&WHITE)?;
    let points = || curves.iter().flat_map(|curve| curve.points.iter());
    let (left, right) = span(points().map(|point| point.0));
    match axis {
        Axis::Nines => chart(&backend, labels, curves, 0.0..MOST_NINES, &|nines| {
            if nines.fract() != 0.0 {
                return String::new();
            }
            let percent = 100.0 * (1.0 - 10_f64.powf(-nines));
            format!("{percent:.4}").trim_end_matches('0').trim_end_matches('.').to_owned()
        })?,
        Axis::Log => chart(&backend, labels, curves, (left..right).log_scale(), &short)?,
    }
    backend.present()?;
    Ok(())
}

/// A number with few digits.
fn short(number: &f64) -> String {
    match *number {
        n if n >= 1e6 => format!("{} M", n / 1e6),
        n if n >= 1e3 => format!("{} k", n / 1e3),
        n => n.to_string(),
    }
}

fn chart<X>(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    labels: Labels<'_>,
    curves: &[Curve<'_>],
    x: X,
    format: &dyn Fn(&f64) -> String,
) -> Outcome<()>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let (low, high) =
        span(curves.iter().flat_map(|curve| curve.points.iter().map(|point| point.1)));
    let (chart_area, legend) = area.split_horizontally(740);
    let mut chart = ChartBuilder::on(&chart_area)
        .caption(labels.caption, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(x, (low..high).log_scale())?;
    chart
        .configure_mesh()
        .x_desc(labels.x)
        .y_desc(labels.y)
        .x_label_formatter(&format)
        .y_label_formatter(&short)
        .light_line_style(BLACK.mix(0.05))
        .draw()?;
    for (place, curve) in curves.iter().enumerate() {
        let color = color(curve.name, place);
        let style = color.stroke_width(if curve.name == "ringbell" { 3 } else { 1 });
        chart.draw_series(LineSeries::new(curve.points.iter().copied(), style))?;
        chart
            .draw_series(curve.points.iter().map(|point| Circle::new(*point, 3, color.filled())))?;
        let top = 40 + 17 * i32::try_from(place)?;
        legend.draw(&Circle::new((8, top), 4, color.filled()))?;
        legend.draw(&Text::new(curve.name.to_owned(), (18, top - 6), ("sans-serif", 13)))?;
    }
    Ok(())
}

/// Ringbell stands out; limits are grey.
fn color(name: &str, place: usize) -> RGBAColor {
    if name == "ringbell" {
        return RED.to_rgba();
    }
    if name.starts_with("limit-") {
        return BLACK.mix(0.5);
    }
    Palette99::pick(place + 1).to_rgba()
}
