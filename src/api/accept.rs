//! `Accept`, where an answer has two forms: JSON, and text for whoever scrapes.
//!
//! Each form gets the quality of the most specific range that it fits (RFC 9110, 12.5.1), of several equal ones the best; JSON wins
//! a draw, so who does not care gets what was always there. A range whose quality is no number from 0 to 1 is passed over.

/// What collectors of metrics name, though they are given the older text that all of them know.
const OPENMETRICS: &str = "application/openmetrics-text";

/// Whether `Accept` prefers `text/plain` to JSON, or names OpenMetrics.
pub fn prefers_text(accept: Option<&str>) -> bool {
    // How specific the best range is, and its quality in thousandths.
    let (mut json, mut text) = ((0, 0), (0, 0));
    for range in accept.unwrap_or_default().split(',') {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let Some(quality) = quality(parts) else { continue };
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
        if is(OPENMETRICS) && quality > 0 {
            return true;
        } else if is("*/*") {
            (json, text) = (json.max((1, quality)), text.max((1, quality)));
        } else if is("application/*") {
            json = json.max((2, quality));
        } else if is("application/json") {
            json = json.max((3, quality));
        } else if is("text/*") {
            text = text.max((2, quality));
        } else if is("text/plain") {
            text = text.max((3, quality));
        }
    }
    text.1 > json.1
}

fn quality<'a>(mut parameters: impl Iterator<Item = &'a str>) -> Option<u16> {
    let Some(text) = parameters.find_map(|parameter| parameter.strip_prefix("q=").or(parameter.strip_prefix("Q="))) else {
        return Some(1_000);
    };
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let quality: f32 = text.parse().ok().filter(|quality| is_plain && *quality <= 1.0)?;
    Some((quality * 1_000.0) as u16)
}

#[cfg(test)]
mod tests {
    use super::prefers_text;

    #[test]
    fn who_scrapes_gets_text_and_everybody_else_json() {
        assert!(!prefers_text(None));
        for json in [
            "",
            "*/*",
            "application/json",
            "application/json, text/plain, */*",
            "text/plain, */*",
            "text/plain, application/json",
            "text/plain;q=0.5, application/json;q=0.6",
            "text/plain;q=0.5, application/*",
            "text/plain;q=0, */*",
            "text/plain;q=0",
            "text/plain;q=2",
            "text/plain;q=abc",
            "text/plain;q=nan",
            "text/plain;q=-1",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "image/png",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=0.0;version=1.0.0,*/*",
            "text/*;q=0.2, application/json;q=0.3",
        ] {
            assert!(!prefers_text(Some(json)), "{json:?}");
        }
        for text in [
            "text/plain",
            "Text/Plain",
            "text/*",
            "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "text/plain;q=0.5, application/json;q=0.4",
            "*/*;q=0.1, text/plain;q=0.2",
            "text/plain , application/json ; q=0",
            "*/*, application/json;Q=0.5",
            "application/openmetrics-text",
            "application/json, application/openmetrics-text; version=1.0.0; q=0.001",
            // Prometheus 2.42 and 3.5, VictoriaMetrics, and Prometheus before 2.0.
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "text/plain;version=0.0.4;q=1,*/*;q=0.1",
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,text/plain;version=0.0.4;q=0.3",
        ] {
            assert!(prefers_text(Some(text)), "{text:?}");
        }
    }
}
