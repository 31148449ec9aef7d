//! Pictures of the cost against the size of a message, and of its chunks.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use crate::report::Report;

/// A line of a picture: what it is of, and its points.
type Line = (String, Vec<(f64, f64)>);

const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 90, 181),
    RGBColor(86, 180, 233),
    RGBColor(0, 158, 115),
    RGBColor(220, 50, 32),
    RGBColor(230, 159, 0),
    RGBColor(120, 120, 120),
];

/// Draws both pictures into the folder.
pub fn draw(report: &Report, folder: &Path) -> Result<(), Box<dyn Error>> {
    let sizes = ["207k", "1m", "2m", "4m", "9m", "32m"];
    let chunks = ["1b", "16b", "64b", "256b", "1k", "4k", "64k"];
    let by_size = |who: &str, chunk: &str| line(report, who, sizes.map(|size| (size, chunk)), 0);
    let by_chunk = |who: &str| line(report, who, chunks.map(|chunk| ("1m", chunk)), 1);
    let ours = "ours";
    let helper = "spice-gtk helper";
    picture(
        &folder.join("performance-size.svg"),
        "a reply against its size",
        "bytes of the reply",
        &[
            ("ours, chunks of 64 KiB".into(), by_size(ours, "64k")),
            ("ours, chunks of 4 KiB".into(), by_size(ours, "4k")),
            ("ours, chunks of 64 B".into(), by_size(ours, "64b")),
            ("spice-gtk, chunks of 64 KiB".into(), by_size(helper, "64k")),
            ("spice-gtk, chunks of 64 B".into(), by_size(helper, "64b")),
            (
                "serde_json RawValue envelope".into(),
                by_size("serde_json RawValue envelope", "64k"),
            ),
        ],
    )?;
    picture(
        &folder.join("performance-chunk.svg"),
        "a reply of 1 MB against the size of its chunks",
        "bytes of a chunk",
        &[
            (ours.into(), by_chunk(ours)),
            (helper.into(), by_chunk(helper)),
            (
                "emission of the chunks alone".into(),
                by_chunk("emission alone"),
            ),
        ],
    )
}

/// The medians of these replies, against the size of the message or of the chunks.
fn line<'a>(
    report: &Report,
    who: &str,
    replies: impl IntoIterator<Item = (&'a str, &'a str)>,
    against: usize,
) -> Vec<(f64, f64)> {
    let point = |(size, chunk): (&str, &str)| {
        let id = format!("reply-{size}-{chunk}");
        let row = report
            .rows
            .iter()
            .find(|row| row.workload == id && row.who == who)?;
        let x = bytes([size, chunk][against], against == 1);
        Some((x, row.figures.median()))
    };
    replies.into_iter().filter_map(point).collect()
}

/// The number of bytes in `9m` or `64k`.
fn bytes(text: &str, binary: bool) -> f64 {
    let (digits, unit) = text.split_at(text.len() - 1);
    let kilo = if binary { 1024.0 } else { 1000.0 };
    let number: f64 = digits.parse().expect("a number");
    match unit {
        "m" => number * kilo * kilo,
        "k" => number * kilo,
        _ => number,
    }
}

/// Both scales grow tenfold with each step: what is linear is a straight line.
fn picture(path: &Path, title: &str, x: &str, lines: &[Line]) -> Result<(), Box<dyn Error>> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    if points().next().is_none() {
        return Ok(());
    }
    let range = |of: fn(&(f64, f64)) -> f64| {
        let least = points().map(of).fold(f64::MAX, f64::min);
        let most = points().map(of).fold(0.0, f64::max);
        least / 1.5..most * 1.5
    };
    let area = SVGBackend::new(path, (800, 480)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(format!("Cost of {title}"), ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(range(|it| it.0).log_scale(), range(|it| it.1).log_scale())?;
    chart
        .configure_mesh()
        .x_desc(x)
        .y_desc("ms per reply")
        .light_line_style(RGBColor(240, 240, 240))
        .draw()?;
    for ((name, points), colour) in lines.iter().zip(COLOURS) {
        chart
            .draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)).point_size(3))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(200, 200, 200))
        .draw()?;
    area.present()?;
    Ok(())
}
