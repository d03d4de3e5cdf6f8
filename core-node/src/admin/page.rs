//! The status page: one HTML document without scripts, made from the same row as `core-node status`.

use std::fmt::Write;

use crate::control::StatusRow;

const HEAD: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"5\">\
<title>Headwater core</title><style>body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse;margin:.5em 0 1.5em}td,th{text-align:left;padding:.15em 1.2em .15em 0;vertical-align:top}\
th{font-weight:600;color:#555}h2{font-size:1.1em;margin-top:1.5em}.none{color:#777}</style></head><body>";

/// The page of `status`.
pub(super) fn render(status: &StatusRow) -> String {
    let mut page = HEAD.to_owned();
    let mut text = |part: std::fmt::Arguments<'_>| {
        // Writing into a string can't fail.
        let _ = page.write_fmt(part);
    };
    text(format_args!("<h1>{}</h1>", escaped(&status.name)));
    text(format_args!("<table>"));
    for (name, value) in [
        ("release", status.release.clone()),
        ("up", format!("{} s", status.up_s)),
        ("devices listen on", status.listen.clone()),
        ("devices", format!("{} known, {} connected", status.devices, status.connected)),
        ("datasets", format!("{} in {} versions", status.datasets, status.versions)),
        (
            "store",
            format!(
                "{} chunks, {} bytes in {} packs, {} bytes plain, {} bytes free",
                status.chunks, status.stored_bytes, status.packs, status.plain_bytes, status.disk_free_bytes
            ),
        ),
        ("damage", format!("{} chunks are damaged now", status.damaged_chunks)),
        ("wire in", reasons(&status.wire_in)),
        ("wire out", reasons(&status.wire_out)),
    ] {
        text(format_args!("<tr><th>{name}</th><td>{}</td></tr>", escaped(&value)));
    }
    text(format_args!("</table>"));
    let sessions = status.sessions.iter().map(|row| {
        [
            row.device.clone(),
            row.address.clone(),
            row.doing.clone(),
            format!("{} ms", row.round_trip_ms),
            format!("{} bytes", row.in_bytes),
            format!("{} bytes", row.out_bytes),
        ]
    });
    text(format_args!("{}", table("Sessions", ["device", "from", "does", "round trip", "in", "out"], sessions)));
    let readers = status.readers.iter().map(|row| {
        let reads: Vec<_> = row
            .reads
            .iter()
            .map(|read| match read.epoch {
                Some(epoch) => format!("{}: epoch {epoch}, {} of {} samples", read.dataset, read.turn, read.turns),
                None => read.dataset.clone(),
            })
            .collect();
        let plane = if row.why_not_rdma.is_empty() {
            row.plane.clone()
        } else {
            format!("{} (no RDMA: {})", row.plane, row.why_not_rdma)
        };
        [
            row.job.clone(),
            if row.user.is_empty() { row.token.clone() } else { row.user.clone() },
            row.address.clone(),
            plane,
            reads.join(", "),
            format!("{} bytes", row.bytes),
            format!("{} ms", row.waited_ms),
        ]
    });
    text(format_args!(
        "{}",
        table("Training jobs", ["job", "whose", "from", "over", "reads", "out", "waited"], readers)
    ));
    let workers = status.workers.iter().map(|row| [row.name.clone(), row.state.clone(), row.last.clone()]);
    text(format_args!("{}", table("Work in the background", ["worker", "now", "last"], workers)));
    let errors = status.errors.iter().map(|row| {
        [row.code.clone(), row.message.clone(), row.whom.clone(), format!("{} s ago", row.ago_s), row.count.to_string()]
    });
    text(format_args!("{}", table("Last errors", ["code", "what", "whom", "when", "times"], errors)));
    page.push_str("<p><a href=\"/metrics\">metrics</a></p></body></html>");
    page
}

fn table<const N: usize>(title: &str, header: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut html = format!("<h2>{title}</h2>");
    let body: String = rows
        .map(|row| row.iter().fold("<tr>".to_owned(), |html, cell| html + "<td>" + &escaped(cell) + "</td>") + "</tr>")
        .collect();
    if body.is_empty() {
        return html + "<p class=\"none\">none</p>";
    }
    html.push_str("<table><tr>");
    for cell in header {
        // Writing into a string can't fail.
        let _ = write!(html, "<th>{cell}</th>");
    }
    html + "</tr>" + &body + "</table>"
}

fn reasons(reasons: &std::collections::BTreeMap<String, u64>) -> String {
    reasons.iter().map(|(reason, bytes)| format!("{reason} {bytes}")).collect::<Vec<_>>().join(", ") + " bytes"
}

/// Names come from devices: none of them writes HTML.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ErrorRow;

    #[test]
    fn a_device_can_not_write_html() {
        let errors = vec![ErrorRow { message: "<script>alert(1)</script>".into(), ..ErrorRow::default() }];
        let page = render(&StatusRow { errors, ..StatusRow::default() });
        assert!(!page.contains("<script>") && page.contains("&lt;script&gt;"), "{page}");
    }
}
