//! The table of results: aligned text, or Markdown.

use std::fmt::Write;

/// One figure.
pub struct Row {
    /// What was measured.
    pub figure: String,
    /// Ours.
    pub ours: String,
    /// The peer's; empty without one.
    pub peer: String,
    /// Ours over the peer's; empty where there is none.
    pub ratio: String,
    /// The figure to reach; empty where there is none.
    pub wanted: String,
    /// Whether it is reached; none where there is nothing to reach, or no peer to compare with.
    pub met: Option<bool>,
}

/// A titled group of figures.
pub struct Section {
    /// The title, with the unit and how it was measured.
    pub title: String,
    /// Its figures.
    pub rows: Vec<Row>,
}

const HEAD: [&str; 6] = ["figure", "ours", "peer", "ours/peer", "wanted", "reached"];

fn cells(row: &Row) -> [String; 6] {
    let met = match row.met {
        Some(true) => "yes",
        Some(false) => "NO",
        None => "",
    };
    [&row.figure, &row.ours, &row.peer, &row.ratio, &row.wanted, met].map(|text| (*text).to_owned())
}

/// All sections as text.
pub fn render(sections: &[Section], markdown: bool) -> String {
    let mut out = String::new();
    let all: Vec<[String; 6]> = sections.iter().flat_map(|section| section.rows.iter().map(cells)).collect();
    let widths: [usize; 6] = std::array::from_fn(|column| {
        let cells = all.iter().map(|row| row[column].chars().count());
        cells.chain([HEAD[column].len()]).max().unwrap_or(0)
    });
    let line = |cells: [&str; 6]| {
        let mut line = String::new();
        for (at, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let space = if at == 0 { "" } else { " " };
            // Names to the left, numbers to the right.
            let _ = match (markdown, at) {
                (true, _) => write!(line, "| {cell} "),
                (false, 0) => write!(line, "{cell:<width$}"),
                (false, _) => write!(line, "{space} {cell:>width$}"),
            };
        }
        if markdown { line + "|" } else { line.trim_end().to_owned() }
    };
    for section in sections {
        let _ = match markdown {
            true => writeln!(out, "\n### {}\n\n{}\n|---|--:|--:|--:|--:|--:|", section.title, line(HEAD)),
            false => writeln!(out, "\n{}\n{}", section.title, line(HEAD)),
        };
        for row in &section.rows {
            let cells = cells(row);
            let _ = writeln!(out, "{}", line(std::array::from_fn(|column| cells[column].as_str())));
        }
    }
    out
}

/// The value at a fraction of the sorted samples: 0.5 is the median.
pub fn quantile(samples: &[f64], fraction: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * fraction).round() as usize).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(figure: &str, met: Option<bool>) -> Row {
        let text = |text: &str| text.to_owned();
        Row {
            figure: text(figure),
            ours: text("1.0"),
            peer: text("2.0"),
            ratio: text("0.50"),
            wanted: text("<= 1.5"),
            met,
        }
    }

    #[test]
    fn quantiles_do_not_depend_on_order_and_nothing_has_none() {
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 0.5), Some(2.0));
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 0.99), Some(3.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn columns_of_all_sections_line_up() {
        let section = |figure: &str| Section { title: "t".into(), rows: vec![row(figure, Some(false))] };
        let text = render(&[section("short"), section("much longer name")], false);
        let ends: Vec<usize> = text.lines().filter(|line| line.ends_with("NO")).map(str::len).collect();
        assert_eq!(ends.len(), 2);
        assert_eq!(ends[0], ends[1]);
    }

    #[test]
    fn markdown_rows_have_as_many_cells_as_the_rule() {
        let text = render(&[Section { title: "t".into(), rows: vec![row("x", None)] }], true);
        let bars: Vec<usize> =
            text.lines().filter(|line| line.starts_with('|')).map(|line| line.matches('|').count()).collect();
        assert_eq!(bars, [7, 7, 7]);
    }
}
