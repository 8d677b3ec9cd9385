//! Which requests a response answers: those whose headers equal what its `Vary` names
//! (RFC 9111, section 4.1).

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::accept_encoding;
use crate::http::{
    forwarded::is_forwarding_header,
    headers::{is_hop_or_framing_header, is_private_header, normalize_name},
};

/// The headers of a request that have selected a response.
#[derive(Debug)]
pub(super) struct Selection(Box<[Field]>);

#[derive(Debug)]
struct Field {
    name: HeaderName,
    /// The values in the request.
    values: Box<[HeaderValue]>,
    /// `None` if the request lacks the header.
    normal: Option<String>,
}

impl Selection {
    /// Returns the selection of a response to a request with these headers.
    ///
    /// Returns `None` if no other request can be answered with it: because of `Vary: *`, or because it
    /// depends on a header that the host sets, so that the client's value says nothing about it.
    pub(super) fn new(response: &HeaderMap, request: &HeaderMap) -> Option<Self> {
        let mut fields = Vec::new();
        for value in response.get_all(header::VARY) {
            for name in value.to_str().ok()?.split(',').map(str::trim) {
                if name.is_empty() {
                    continue;
                }
                // `*` is a valid name.
                let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
                if name == "*" || is_set_by_host(&name) {
                    return None;
                }
                fields.push(Field {
                    values: request.get_all(&name).iter().cloned().collect(),
                    normal: normalize(&name, request),
                    name,
                });
            }
        }
        Some(Self(fields.into()))
    }

    /// Returns whether a request with these headers selects the same response.
    pub(super) fn matches(&self, request: &HeaderMap) -> bool {
        self.0.iter().all(|field| {
            // Most clients send what another one has sent, so nothing is normalized.
            let values = request.get_all(&field.name).iter();
            values.eq(field.values.iter()) || normalize(&field.name, request) == field.normal
        })
    }

    /// Returns whether both select for the same requests.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let (own, others) = (self.0.iter(), other.0.iter());
        self.0.len() == other.0.len()
            && own
                .zip(others)
                .all(|(field, other)| field.name == other.name && field.normal == other.normal)
    }

    /// Appends what distinguishes a request with these headers from others to a text.
    pub(super) fn describe(&self, request: &HeaderMap, text: &mut String) {
        for field in &self.0 {
            push_field(text, &field.name, request);
        }
    }

    /// Returns its size in memory, about.
    pub(super) fn bytes(&self) -> usize {
        let values = self.0.iter().map(|field| {
            let values: usize = field.values.iter().map(HeaderValue::len).sum();
            let normal = field.normal.as_ref().map_or(0, String::len);
            size_of::<Field>() + field.name.as_str().len() + values + normal
        });
        values.sum()
    }
}

/// Appends what distinguishes requests of a URL whose `Vary` is not known to a text.
pub(super) fn describe_unknown(request: &HeaderMap, text: &mut String) {
    push_field(text, &header::ACCEPT_ENCODING, request);
}

fn push_field(text: &mut String, name: &HeaderName, request: &HeaderMap) {
    // Line breaks occur neither in URLs nor in headers.
    text.push('\n');
    text.push_str(name.as_str());
    if let Some(value) = normalize(name, request) {
        text.push(':');
        text.push_str(&value);
    }
}

/// Returns the value of a header, without differences that have no meaning for any header.
fn normalize(name: &HeaderName, headers: &HeaderMap) -> Option<String> {
    if *name == header::ACCEPT_ENCODING {
        return accept_encoding::normalize(headers);
    }
    if !headers.contains_key(name) {
        return None;
    }
    let values: Vec<&[u8]> = headers
        .get_all(name)
        .iter()
        .map(|value| value.as_bytes().trim_ascii())
        .collect();
    Some(values.join(&b", "[..]).escape_ascii().to_string())
}

/// Returns whether the host sets or replaces a header before the backend gets the request.
fn is_set_by_host(name: &HeaderName) -> bool {
    let normal = normalize_name(name);
    is_private_header(name)
        || is_forwarding_header(name)
        || is_hop_or_framing_header(&normal)
        || normal.starts_with("spin-")
        || ["via", "traceparent", "tracestate"].contains(&&*normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    /// Returns whether the response to one request with this `Vary` answers another request.
    fn answers(
        vary: &'static str,
        request: &[(&'static str, &'static str)],
        other: &[(&'static str, &'static str)],
    ) -> bool {
        let response = headers(&[("vary", vary)]);
        let selection = Selection::new(&response, &headers(request)).expect("a selection");
        selection.matches(&headers(other))
    }

    #[test]
    fn only_named_headers_matter() {
        let request = &[("accept-encoding", "gzip, br"), ("cookie", "a=1")];
        assert!(answers("", request, &[]));
        assert!(answers(
            "Accept-Encoding",
            request,
            &[("accept-encoding", "br,gzip")]
        ));
        assert!(!answers(
            "Accept-Encoding",
            request,
            &[("accept-encoding", "gzip")]
        ));
        assert!(!answers("accept-encoding", request, &[]));
        let vary = "accept-encoding, cookie";
        assert!(answers(vary, request, request));
        assert!(!answers(vary, request, &request[..1]));
        assert!(!answers(
            vary,
            request,
            &[("accept-encoding", "gzip, br"), ("cookie", "a=2")]
        ));
    }

    #[test]
    fn lines_of_a_header_are_joined() {
        let two = &[("accept-language", "de"), ("accept-language", "en")];
        assert!(answers(
            "accept-language",
            two,
            &[("accept-language", "de, en ")]
        ));
        assert!(!answers(
            "accept-language",
            two,
            &[("accept-language", "en, de")]
        ));
        assert!(!answers("x-a", &[("x-a", "")], &[]));
    }

    #[test]
    fn what_the_host_sets_selects_nothing() {
        for vary in [
            "*",
            "accept-encoding, *",
            "X-Forwarded-Proto",
            "x_forwarded_host",
            "Forwarded",
            "Grip-Sig",
            "spin-client-addr",
            "Connection",
            "traceparent",
            "in valid",
        ] {
            let selection = Selection::new(&headers(&[("vary", vary)]), &HeaderMap::new());
            assert!(selection.is_none(), "{vary}");
        }
    }

    #[test]
    fn requests_are_described_by_what_selects() {
        let selection = Selection::new(&headers(&[("vary", "x-a")]), &HeaderMap::new());
        let describe = |fields: &[(&'static str, &'static str)]| {
            let mut text = String::new();
            let selection = selection.as_ref().expect("a selection");
            selection.describe(&headers(fields), &mut text);
            text
        };
        assert_eq!(describe(&[("x-a", "1"), ("x-b", "1")]), "\nx-a:1");
        assert_eq!(describe(&[("x-b", "2")]), "\nx-a");
        let mut text = String::new();
        describe_unknown(&headers(&[("accept-encoding", "br, gzip")]), &mut text);
        assert_eq!(text, "\naccept-encoding:br,gzip");
    }
}
