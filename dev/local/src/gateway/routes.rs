//! Which route answers a request: the choice that an HTTP API makes.

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use crate::template::Route;

/// The routes of an API.
#[derive(Debug)]
pub struct Routes(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    route: Route,
    segments: Vec<Segment>,
}

// Ordered from the most to the least specific.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Literal(String),
    Parameter(String),
    Greedy(String),
}

/// The route for a request, and what its path parameters stand for.
#[derive(Debug)]
pub struct Match<'a> {
    /// The route.
    pub route: &'a Route,
    /// The path parameters by name.
    pub parameters: Map<String, Value>,
}

/// The path as API Gateway hands it on, percent-decoded exactly once.
///
/// AWS's documentation calls `rawPath` the path as it came, but captured events of HTTP APIs show
/// it decoded, `%2F` included, in `rawPath` and `pathParameters` alike (`/a%2Fb` arrives as
/// `/a/b`); so routes are chosen by the decoded path, too. Two differences are deliberate, because
/// otherwise a function would not see what is wrong with a key: an escape that is none (`%zz`)
/// stays as it is, and a decoded `?` does not cut the path off (one published capture shows that it
/// does on AWS). Bytes that are no UTF-8 become U+FFFD.
pub(super) fn decode_path(path: &str) -> String {
    percent_decode_str(path).decode_utf8_lossy().into_owned()
}

impl Routes {
    /// A table of `routes`.
    pub fn new(routes: Vec<Route>) -> Self {
        let mut entries: Vec<_> = routes
            .into_iter()
            .map(|route| Entry { segments: route.path.split('/').skip(1).map(segment).collect(), route })
            .collect();
        // The first match is then the most specific: segment by segment a name before a parameter
        // before a greedy one, and a method before ANY.
        entries.sort_by(|a, b| {
            a.segments.cmp(&b.segments).then_with(|| (a.route.method == "ANY").cmp(&(b.route.method == "ANY")))
        });
        Self(entries)
    }

    /// The route for `method` and the decoded `path`; none if API Gateway would answer 404 itself.
    /// That is also so for HEAD and OPTIONS, which no route stands for unless it says so.
    pub fn find(&self, method: &str, path: &str) -> Option<Match<'_>> {
        self.0.iter().filter(|entry| entry.route.method == method || entry.route.method == "ANY").find_map(|entry| {
            let parameters = capture(&entry.segments, path.strip_prefix('/')?)?;
            Some(Match { route: &entry.route, parameters })
        })
    }
}

fn segment(text: &str) -> Segment {
    match text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
        None => Segment::Literal(text.to_owned()),
        Some(name) => match name.strip_suffix('+') {
            None => Segment::Parameter(name.to_owned()),
            Some(name) => Segment::Greedy(name.to_owned()),
        },
    }
}

fn capture(segments: &[Segment], path: &str) -> Option<Map<String, Value>> {
    let mut parameters = Map::new();
    let mut rest = Some(path);
    for segment in segments {
        let here = rest?;
        let (head, tail) = match segment {
            Segment::Greedy(_) => (here, None),
            _ => here.split_once('/').map_or((here, None), |(head, tail)| (head, Some(tail))),
        };
        match segment {
            Segment::Literal(name) if name == head => {}
            Segment::Parameter(name) | Segment::Greedy(name) if !head.is_empty() => {
                parameters.insert(name.clone(), head.into());
            }
            _ => return None,
        }
        rest = tail;
    }
    rest.is_none().then_some(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(routes: &[&str], request: &str) -> String {
        let routes = routes
            .iter()
            .map(|route| {
                let (method, path) = route.split_once(' ').unwrap();
                Route {
                    method: method.into(),
                    path: path.into(),
                    function: String::new(),
                    authorizer: None,
                    scopes: vec![],
                }
            })
            .collect();
        let (method, path) = request.split_once(' ').unwrap();
        match Routes::new(routes).find(method, &decode_path(path)) {
            None => "404".into(),
            Some(found) => {
                let parameters = Value::Object(found.parameters).to_string();
                format!("{} {} {parameters}", found.route.method, found.route.path)
            }
        }
    }

    /// Promise: requests reach the function that they would reach on AWS, and none that the
    /// template does not route.
    #[test]
    fn chooses_the_most_specific_route() {
        let routes =
            ["GET /a/{key+}", "GET /a", "ANY /a/{key+}", "GET /a/b", "GET /a/{x}/c", "PUT /a/{key+}", "GET /h"];
        for (request, expected) in [
            ("GET /a", "GET /a {}"),
            ("GET /a/", "404"),
            ("GET /a/b", "GET /a/b {}"),
            ("GET /a/bc", r#"GET /a/{key+} {"key":"bc"}"#),
            ("GET /a/x/c", r#"GET /a/{x}/c {"x":"x"}"#),
            ("GET /a/x/d", r#"GET /a/{key+} {"key":"x/d"}"#),
            ("GET /a/x/", r#"GET /a/{key+} {"key":"x/"}"#),
            ("GET /a//x", r#"GET /a/{key+} {"key":"/x"}"#),
            ("GET /a/../h", r#"GET /a/{key+} {"key":"../h"}"#),
            ("PUT /a/b", r#"PUT /a/{key+} {"key":"b"}"#),
            ("POST /a/b", r#"ANY /a/{key+} {"key":"b"}"#),
            ("POST /a", "404"),
            ("HEAD /h", "404"),
            ("OPTIONS /h", "404"),
            ("GET /H", "404"),
            ("GET /", "404"),
            ("GET *", "404"),
        ] {
            assert_eq!(check(&routes, request), expected, "{request}");
        }
    }

    /// Promise: keys are decoded exactly once.
    #[test]
    fn decodes_once() {
        for (request, expected) in [
            ("GET /a/x%2Fy", "x/y"),
            ("GET /a/x%252Fy", "x%2Fy"),
            ("GET /a/x%20y+z", "x y+z"),
            ("GET /a/%C3%A4", "ä"),
            ("GET /a/%ff", "\u{fffd}"),
            ("GET /a/%zz", "%zz"),
            ("GET /a/x%3Fy", "x?y"),
            ("GET /%61/x", "x"),
        ] {
            let expected = format!("GET /a/{{key+}} {}", serde_json::json!({"key": expected}));
            assert_eq!(check(&["GET /a/{key+}"], request), expected, "{request}");
        }
    }
}
