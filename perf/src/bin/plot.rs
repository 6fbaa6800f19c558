//! Draws results/NAME.json: `plot NAME`, in perf/. Run by perf/plot.

use std::fs;

use anyhow::{Context, Result};
use perf::Report;
use plotters::coord::Shift;
use plotters::prelude::*;

const SIZE: (u32, u32) = (760, 420);

/// One line of a picture.
struct Line<'a> {
    server: &'a str,
    points: Vec<(f64, f64)>,
}

/// One picture.
struct Picture<'a> {
    file: &'a str,
    title: &'a str,
    x: &'a str,
    y: &'a str,
    lines: Vec<Line<'a>>,
}

fn main() -> Result<()> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "full".to_owned());
    let path = format!("results/{name}.json");
    let text = fs::read_to_string(&path).with_context(|| format!("{path}: perf/bench.sh --name {name}"))?;
    let report: Report = serde_json::from_str(&text)?;
    fs::create_dir_all("plots")?;
    let pictures = [
        Picture {
            file: "connections",
            title: "Throughput, one core, by connections",
            x: "connections",
            y: "requests/s",
            lines: lines(&report, &["plain", "connections "], |row| {
                (row.connections as f64, row.requests_per_s)
            }),
        },
        Picture {
            file: "pipeline",
            title: "Server CPU per request, by pipeline depth",
            x: "requests at once on a connection",
            y: "ns a request",
            lines: lines(&report, &["pipelined "], |row| (row.depth as f64, row.cpu_ns)),
        },
        Picture {
            file: "latency",
            title: "p99.9 latency in an open loop, by rate",
            x: "requests/s",
            y: "ms",
            lines: latency_lines(&report),
        },
    ];
    for picture in pictures.iter().filter(|picture| !picture.lines.is_empty()) {
        let path = format!("plots/{}.svg", picture.file);
        draw(&SVGBackend::new(&path, SIZE).into_drawing_area(), picture)?;
        println!("perf/{path}");
    }
    Ok(())
}

/// A line for each server that was measured at two points or more.
fn lines<'a>(
    report: &'a Report,
    cases: &[&str],
    point: impl Fn(&perf::Throughput) -> (f64, f64),
) -> Vec<Line<'a>> {
    let rows = report.throughput.iter().filter(|row| cases.iter().any(|case| row.case.starts_with(case)));
    group(rows.map(|row| (row.server.as_str(), point(row))))
}

fn latency_lines(report: &Report) -> Vec<Line<'_>> {
    let rows = report.latency.iter().filter(|row| row.case.starts_with("rate "));
    group(rows.map(|row| (row.server.as_str(), (row.rate_per_s, row.p999_ms))))
}

fn group<'a>(rows: impl Iterator<Item = (&'a str, (f64, f64))>) -> Vec<Line<'a>> {
    let mut lines: Vec<Line<'a>> = Vec::new();
    for (server, point) in rows {
        match lines.iter_mut().find(|line| line.server == server) {
            Some(line) => line.points.push(point),
            None => lines.push(Line { server, points: vec![point] }),
        }
    }
    lines.retain(|line| line.points.len() > 1);
    lines.iter_mut().for_each(|line| line.points.sort_by(|a, b| a.0.total_cmp(&b.0)));
    lines
}

/// The same for a server in every picture; ours stands out.
fn style(server: &str) -> ShapeStyle {
    let (color, width) = match server {
        "idalloc" => (RGBColor(200, 30, 60), 3),
        "may_minihttp" => (RGBColor(230, 140, 20), 2),
        "hyper" => (RGBColor(40, 100, 200), 2),
        "nginx" => (RGBColor(30, 140, 70), 2),
        _ => (RGBColor(120, 120, 120), 2),
    };
    color.stroke_width(width)
}

fn draw(area: &DrawingArea<SVGBackend<'_>, Shift>, picture: &Picture<'_>) -> Result<()> {
    area.fill(&WHITE)?;
    let points = || picture.lines.iter().flat_map(|line| &line.points);
    let (first, last) = points().fold((f64::MAX, 0.0), |(low, high), (x, _)| (x.min(low), x.max(high)));
    let top = points().fold(0.0, |high: f64, (_, y)| high.max(*y)) * 1.08;
    let mut chart = ChartBuilder::on(area)
        .caption(picture.title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(76)
        .build_cartesian_2d((first..last * 1.02).log_scale(), 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc(picture.x)
        .y_desc(picture.y)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| if top < 20.0 { format!("{y:.1}") } else { format!("{y:.0}") })
        .light_line_style(RGBColor(235, 235, 235))
        .draw()?;
    for line in &picture.lines {
        let style = style(line.server);
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), style).point_size(3))?
            .label(line.server)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(200, 200, 200))
        .draw()?;
    area.present()?;
    Ok(())
}
