//! What runs came to: a table, and a plot.

use std::fmt::Write as _;

use plotters::prelude::*;

use super::{Bar, Figures};

/// Height of one bar of the plot, and what is around all of them.
const BAR_PIXELS: u32 = 14;
const FRAME_PIXELS: u32 = 90;
const WIDTH_PIXELS: u32 = 860;

/// How the name of the controller ends that is ours; its bars are blue.
const OURS: &str = "bdp";

/// One run.
#[derive(Clone, Debug)]
pub struct Line {
    /// The link.
    pub link: String,
    /// What sent.
    pub sender: String,
    /// What it must come to.
    pub bar: Bar,
    /// What it came to.
    pub figures: Figures,
}

impl Line {
    /// The share that the bar is about.
    fn share(&self) -> f64 {
        if let Bar::Between(..) = self.bar { self.figures.fairness } else { self.figures.share }
    }

    fn label(&self) -> String {
        format!("{} ({})", self.link, self.sender)
    }
}

/// The runs as a table in Markdown.
pub fn table(lines: &[Line]) -> String {
    let mut text = String::from(
        "| link | sender | goodput from second 5 | from the beginning | round trip, mean | bar | |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for line in lines {
        let bar = match line.bar {
            Bar::Share(share, rtt) => format!("≥ {:.0} %, ≤ {rtt:.1} ×", 100.0 * share),
            Bar::UpTime(share) => format!("≥ {:.0} % of the up time", 100.0 * share),
            Bar::Between(least, most) => format!("{:.0} to {:.0} % of both", 100.0 * least, 100.0 * most),
        };
        let verdict = if line.bar.is_reached(&line.figures) { "reached" } else { "**missed**" };
        writeln!(
            text,
            "| {} | {} | {:.0} % | {:.0} % | {:.2} × | {bar} | {verdict} |",
            line.link,
            line.sender,
            100.0 * line.share(),
            100.0 * line.figures.share_in_all,
            line.figures.rtt_mean,
        )
        .expect("writing into a string can't fail");
    }
    text
}

/// The shares as bars, in SVG; a mark stands where each must reach.
pub fn plot(lines: &[Line]) -> Result<String, String> {
    let mut svg = String::new();
    let height = BAR_PIXELS * lines.len() as u32 + FRAME_PIXELS;
    draw(&mut svg, height, lines).map_err(|error| error.to_string())?;
    Ok(svg)
}

fn draw(svg: &mut String, height: u32, lines: &[Line]) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(svg, (WIDTH_PIXELS, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let rows = lines.len() as i32;
    let mut chart = ChartBuilder::on(&area)
        .caption("goodput, share of the link; the mark is the bar", ("sans-serif", 15))
        .margin(10)
        .x_label_area_size(25)
        .y_label_area_size(330)
        .build_cartesian_2d(0.0..1.0, (0..rows).into_segmented())?;
    let name = |row: &SegmentValue<i32>| match row {
        SegmentValue::CenterOf(row) => lines.get((rows - 1 - row) as usize).map(Line::label).unwrap_or_default(),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(lines.len())
        .y_label_formatter(&name)
        .x_label_formatter(&|share| format!("{:.0} %", 100.0 * share))
        .draw()?;
    for (row, line) in (0..rows).rev().zip(lines) {
        let color = if line.sender.ends_with(OURS) { &BLUE } else { &RGBColor(170, 170, 170) };
        let (from, to) = (SegmentValue::Exact(row), SegmentValue::Exact(row + 1));
        let mut bar = Rectangle::new([(0.0, from.clone()), (line.share().min(1.0), to.clone())], color.filled());
        bar.set_margin(2, 2, 0, 0);
        chart.draw_series([bar])?;
        let (Bar::Share(mark, _) | Bar::UpTime(mark) | Bar::Between(mark, _)) = line.bar;
        chart.draw_series([PathElement::new([(mark, from), (mark, to)], RED.stroke_width(2))])?;
    }
    area.present()?;
    Ok(())
}
