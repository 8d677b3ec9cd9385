//! The settings of the export, from the environment variables that OpenTelemetry defines:
//! <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>.

use std::{path::PathBuf, str::FromStr, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use percent_encoding::percent_decode_str;
use uuid::Uuid;

use crate::telemetry::sampler::Sampler;

/// The name of the service, unless the environment sets one.
const SERVICE_NAME: &str = "socket-host";

/// Whether and how spans and metrics are exported. The default exports nothing.
#[derive(Clone, Debug, Default)]
pub struct OtlpOptions {
    pub(super) traces: Option<TraceOptions>,
    pub(super) metrics: Option<MetricOptions>,
    /// What describes this process.
    pub(super) resource: Vec<(String, String)>,
}

/// How spans are exported.
#[derive(Clone, Debug)]
pub(super) struct TraceOptions {
    pub(super) endpoint: Endpoint,
    pub(super) sampler: Sampler,
    /// The spans that wait to be sent. Further ones are dropped.
    pub(super) queue: usize,
    /// The spans in one message.
    pub(super) batch: usize,
    /// How long a span waits until the batch is full.
    pub(super) delay: Duration,
}

/// How metrics are exported.
#[derive(Clone, Debug)]
pub(super) struct MetricOptions {
    pub(super) endpoint: Endpoint,
    pub(super) interval: Duration,
}

/// A collector.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Endpoint {
    pub(super) uri: Uri,
    pub(super) protocol: Protocol,
    pub(super) headers: HeaderMap,
    pub(super) timeout: Duration,
    /// Whether messages are compressed with gzip.
    pub(super) is_compressed: bool,
    /// The root certificates to trust instead of those of the system, in PEM.
    pub(super) roots: Option<PathBuf>,
    /// The certificate of the host and its key, in PEM.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
}

/// How messages are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// A POST request for each message.
    HttpProtobuf,
    /// A gRPC call for each message.
    Grpc,
}

/// What is exported.
#[derive(Clone, Copy)]
struct Signal {
    /// The part of the names of variables.
    name: &'static str,
    path: &'static str,
    grpc_path: &'static str,
}

const TRACES: Signal = Signal {
    name: "TRACES",
    path: "v1/traces",
    grpc_path: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
};

const METRICS: Signal = Signal {
    name: "METRICS",
    path: "v1/metrics",
    grpc_path: "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
};

impl OtlpOptions {
    /// Reads the environment of the process.
    ///
    /// # Errors
    /// Fails if a variable has a value that is invalid or not supported.
    pub fn from_env() -> Result<Self> {
        Self::read(&Environment(&|name| std::env::var(name).ok()))
    }

    fn read(environment: &Environment<'_>) -> Result<Self> {
        if environment.flag("OTEL_SDK_DISABLED")? {
            return Ok(Self::default());
        }
        let traces = match environment.endpoint(TRACES)? {
            Some(endpoint) => Some(TraceOptions {
                endpoint,
                sampler: environment.sampler()?,
                queue: environment.number("OTEL_BSP_MAX_QUEUE_SIZE", 2048)?,
                batch: environment.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)?,
                delay: environment.millis("OTEL_BSP_SCHEDULE_DELAY", 5000)?,
            }),
            None => None,
        };
        let metrics = match environment.endpoint(METRICS)? {
            Some(endpoint) => Some(MetricOptions {
                endpoint,
                interval: environment.millis("OTEL_METRIC_EXPORT_INTERVAL", 60_000)?,
            }),
            None => None,
        };
        if let Some(traces) = &traces {
            ensure!(
                traces.batch <= traces.queue,
                "OTEL_BSP_MAX_EXPORT_BATCH_SIZE is out of range: expected at most \
                 OTEL_BSP_MAX_QUEUE_SIZE, which is {}",
                traces.queue
            );
        }
        let resource = match (&traces, &metrics) {
            (None, None) => Vec::new(),
            _ => environment.resource()?,
        };
        Ok(Self {
            traces,
            metrics,
            resource,
        })
    }
}

/// The variables of the environment. An empty one counts as not set.
struct Environment<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Environment<'_> {
    fn get(&self, name: &str) -> Option<String> {
        let value = (self.0)(name)?;
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }

    /// Returns the value of a variable for a signal, or else that for all signals, and its name.
    fn get_for(&self, signal: Signal, suffix: &str) -> Option<(String, String)> {
        let names = [
            format!("OTEL_EXPORTER_OTLP_{}_{suffix}", signal.name),
            format!("OTEL_EXPORTER_OTLP_{suffix}"),
        ];
        names
            .into_iter()
            .find_map(|name| Some((self.get(&name)?, name)))
    }

    fn flag(&self, name: &str) -> Result<bool> {
        match self.get(name) {
            None => Ok(false),
            Some(value) if value.eq_ignore_ascii_case("true") => Ok(true),
            Some(value) if value.eq_ignore_ascii_case("false") => Ok(false),
            Some(value) => bail!("invalid {name} {value:?}: expected true or false"),
        }
    }

    fn number(&self, name: &str, default: usize) -> Result<usize> {
        let Some(value) = self.get(name) else {
            return Ok(default);
        };
        let number = value.parse().ok().filter(|number| *number > 0);
        number.with_context(|| format!("invalid {name} {value:?}: expected a number from 1"))
    }

    fn millis(&self, name: &str, default: usize) -> Result<Duration> {
        let millis = self.number(name, default)?;
        Ok(Duration::from_millis(millis as u64))
    }

    /// Returns where a signal is exported to. `None` if it is not exported.
    fn endpoint(&self, signal: Signal) -> Result<Option<Endpoint>> {
        let exporter = format!("OTEL_{}_EXPORTER", signal.name);
        match self.get(&exporter).as_deref() {
            None | Some("otlp") => {}
            Some("none") => return Ok(None),
            Some(other) => bail!("unsupported {exporter} {other:?}: expected otlp or none"),
        }
        let Some((url, variable)) = self.get_for(signal, "ENDPOINT") else {
            return Ok(None);
        };
        let protocol = self.protocol(signal)?;
        let uri = parse_uri(&url)
            .and_then(|uri| match protocol {
                Protocol::Grpc => with_path(uri, signal.grpc_path),
                // Only the general variable is the base of a path.
                Protocol::HttpProtobuf if variable == "OTEL_EXPORTER_OTLP_ENDPOINT" => {
                    let base = uri.path().trim_end_matches('/').to_owned();
                    with_path(uri, &format!("{base}/{}", signal.path))
                }
                Protocol::HttpProtobuf => Ok(uri),
            })
            .with_context(|| {
                format!("invalid {variable} {url:?}: expected a URL, such as http://localhost:4318")
            })?;
        let timeout = match self.get_for(signal, "TIMEOUT") {
            Some((_, name)) => self.millis(&name, 1)?,
            None => Duration::from_secs(10),
        };
        Ok(Some(Endpoint {
            uri,
            protocol,
            headers: self.headers(signal)?,
            timeout,
            is_compressed: self.is_compressed(signal)?,
            roots: self.file(signal, "CERTIFICATE").map(|(path, _)| path),
            identity: self.identity(signal)?,
        }))
    }

    fn protocol(&self, signal: Signal) -> Result<Protocol> {
        let Some((value, name)) = self.get_for(signal, "PROTOCOL") else {
            return Ok(Protocol::HttpProtobuf);
        };
        match &*value {
            "http/protobuf" => Ok(Protocol::HttpProtobuf),
            "grpc" => Ok(Protocol::Grpc),
            _ => bail!("unsupported {name} {value:?}: set it to http/protobuf or grpc"),
        }
    }

    fn is_compressed(&self, signal: Signal) -> Result<bool> {
        match self.get_for(signal, "COMPRESSION") {
            None => Ok(false),
            Some((value, _)) if value == "none" => Ok(false),
            Some((value, _)) if value == "gzip" => Ok(true),
            Some((value, name)) => bail!("unsupported {name} {value:?}: expected gzip or none"),
        }
    }

    fn headers(&self, signal: Signal) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        let Some((list, variable)) = self.get_for(signal, "HEADERS") else {
            return Ok(headers);
        };
        for (name, value) in parse_pairs(&list, &variable)? {
            // The value may be a secret.
            let invalid = || anyhow!("invalid {variable}: {name:?} is not a valid header");
            let value = HeaderValue::from_str(&value).map_err(|_| invalid())?;
            let name = HeaderName::from_str(&name).map_err(|_| invalid())?;
            headers.append(name, value);
        }
        Ok(headers)
    }

    fn file(&self, signal: Signal, suffix: &str) -> Option<(PathBuf, String)> {
        let (path, name) = self.get_for(signal, suffix)?;
        Some((PathBuf::from(path), name))
    }

    fn identity(&self, signal: Signal) -> Result<Option<(PathBuf, PathBuf)>> {
        let certificate = self.file(signal, "CLIENT_CERTIFICATE");
        match (certificate, self.file(signal, "CLIENT_KEY")) {
            (None, None) => Ok(None),
            (Some((certificate, _)), Some((key, _))) => Ok(Some((certificate, key))),
            (Some((_, name)), None) => bail!("{name} needs OTEL_EXPORTER_OTLP_CLIENT_KEY"),
            (None, Some((_, name))) => bail!("{name} needs OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"),
        }
    }

    fn sampler(&self) -> Result<Sampler> {
        let name = self.get("OTEL_TRACES_SAMPLER");
        let name = name.as_deref().unwrap_or("parentbased_always_on");
        let (follows_parent, kind) = match name.strip_prefix("parentbased_") {
            Some(kind) => (true, kind),
            None => (false, name),
        };
        let ratio = match kind {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => match self.get("OTEL_TRACES_SAMPLER_ARG") {
                None => 1.0,
                Some(ratio) => {
                    let number = ratio.parse().ok();
                    let number = number.filter(|number| (0.0..=1.0).contains(number));
                    number.with_context(|| {
                        format!(
                            "invalid OTEL_TRACES_SAMPLER_ARG {ratio:?}: expected a number from 0 \
                             to 1"
                        )
                    })?
                }
            },
            _ => bail!(
                "unsupported OTEL_TRACES_SAMPLER {name:?}: expected always_on, always_off or \
                 traceidratio, each also with the prefix parentbased_"
            ),
        };
        Ok(Sampler {
            follows_parent,
            ratio,
        })
    }

    fn resource(&self) -> Result<Vec<(String, String)>> {
        let variable = "OTEL_RESOURCE_ATTRIBUTES";
        let mut attributes = match self.get(variable) {
            Some(list) => parse_pairs(&list, variable)?,
            None => Vec::new(),
        };
        if let Some(name) = self.get("OTEL_SERVICE_NAME") {
            attributes.retain(|(key, _)| key != "service.name");
            attributes.push(("service.name".to_owned(), name));
        }
        for (key, default) in [
            ("service.name", SERVICE_NAME.to_owned()),
            ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("service.instance.id", Uuid::new_v4().to_string()),
        ] {
            if attributes.iter().all(|(existing, _)| existing != key) {
                attributes.push((key.to_owned(), default));
            }
        }
        Ok(attributes)
    }
}

fn parse_uri(url: &str) -> Result<Uri> {
    let uri: Uri = url.parse()?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    ensure!(is_http, "the scheme is not http or https");
    Ok(uri)
}

fn with_path(uri: Uri, path: &str) -> Result<Uri> {
    let mut parts = uri.into_parts();
    parts.path_and_query = Some(path.parse()?);
    Ok(Uri::from_parts(parts)?)
}

/// Parses `NAME=VALUE,NAME=VALUE`, whose values are percent-encoded.
fn parse_pairs(list: &str, variable: &str) -> Result<Vec<(String, String)>> {
    let pairs = list
        .split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| {
        let (name, value) = pair
            .split_once('=')
            .filter(|(name, _)| !name.trim().is_empty())
            .with_context(|| format!("invalid {variable}: expected NAME=VALUE,NAME=VALUE"))?;
        let value = percent_decode_str(value.trim()).decode_utf8();
        let value = value.with_context(|| format!("invalid {variable}: {name:?} is not UTF-8"))?;
        Ok((name.trim().to_owned(), value.into_owned()))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<OtlpOptions> {
        let get = |name: &str| {
            let mut variables = variables.iter();
            let found = variables.find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        OtlpOptions::read(&Environment(&get))
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318");

    fn traces(variables: &[(&str, &str)]) -> TraceOptions {
        let variables = [&[ENDPOINT], variables].concat();
        read(&variables).unwrap().traces.unwrap()
    }

    #[test]
    fn nothing_is_exported_without_an_endpoint() {
        for variables in [
            &[][..],
            &[("OTEL_SERVICE_NAME", "a"), ("OTEL_TRACES_EXPORTER", "otlp")],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")],
            &[ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")],
            &[
                ENDPOINT,
                ("OTEL_TRACES_EXPORTER", "none"),
                ("OTEL_METRICS_EXPORTER", "none"),
            ],
        ] {
            let options = read(variables).unwrap();
            assert!(
                options.traces.is_none() && options.metrics.is_none(),
                "{options:?}"
            );
        }
    }

    #[test]
    fn the_general_endpoint_is_the_base_of_the_paths() {
        for (variables, trace_uri, metric_uri) in [
            (
                &[ENDPOINT][..],
                Some("http://localhost:4318/v1/traces"),
                Some("http://localhost:4318/v1/metrics"),
            ),
            (
                &[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://a.example/otlp/")],
                Some("https://a.example/otlp/v1/traces"),
                Some("https://a.example/otlp/v1/metrics"),
            ),
            (
                &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://a.example/x")],
                Some("http://a.example/x"),
                None,
            ),
            (
                &[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://a.example")],
                None,
                Some("http://a.example/"),
            ),
            (
                &[ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
                Some(
                    "http://localhost:4318/opentelemetry.proto.collector.trace.v1.TraceService/Export",
                ),
                Some(
                    "http://localhost:4318/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
                ),
            ),
        ] {
            let options = read(variables).unwrap();
            let uris = [
                options.traces.map(|traces| traces.endpoint.uri.to_string()),
                options
                    .metrics
                    .map(|metrics| metrics.endpoint.uri.to_string()),
            ];
            assert_eq!(
                uris,
                [trace_uri, metric_uri].map(|uri| uri.map(str::to_owned))
            );
        }
    }

    #[test]
    fn variables_of_a_signal_take_precedence() {
        let options = read(&[
            ENDPOINT,
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=1, b=x%20y"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "c=3"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "500"),
            ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca.pem"),
        ])
        .unwrap();
        let (traces, metrics) = (options.traces.unwrap(), options.metrics.unwrap());
        assert_eq!(traces.endpoint.protocol, Protocol::Grpc);
        assert_eq!(metrics.endpoint.protocol, Protocol::HttpProtobuf);
        assert_eq!(traces.endpoint.headers["c"], "3");
        assert_eq!(traces.endpoint.headers.len(), 1);
        assert_eq!(metrics.endpoint.headers["b"], "x y");
        assert_eq!(traces.endpoint.timeout, Duration::from_millis(500));
        assert!(!traces.endpoint.is_compressed && metrics.endpoint.is_compressed);
        assert_eq!(traces.endpoint.roots, Some("ca.pem".into()));
    }

    #[test]
    fn samplers_have_the_names_of_opentelemetry() {
        for (name, ratio, follows_parent, expected) in [
            ("", "", true, 1.0),
            ("always_on", "0.5", false, 1.0),
            ("always_off", "", false, 0.0),
            ("traceidratio", "0.25", false, 0.25),
            ("parentbased_always_off", "", true, 0.0),
            ("parentbased_traceidratio", "", true, 1.0),
        ] {
            let sampler = traces(&[
                ("OTEL_TRACES_SAMPLER", name),
                ("OTEL_TRACES_SAMPLER_ARG", ratio),
            ])
            .sampler;
            assert_eq!(
                (sampler.follows_parent, sampler.ratio),
                (follows_parent, expected)
            );
        }
    }

    #[test]
    fn the_resource_names_the_service() {
        let resource = |variables: &[(&str, &str)]| {
            let variables = [&[ENDPOINT], variables].concat();
            read(&variables).unwrap().resource
        };
        let has = |resource: &[(String, String)], key: &str, value: &str| {
            resource.contains(&(key.to_owned(), value.to_owned()))
        };
        assert!(has(&resource(&[]), "service.name", "socket-host"));
        let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,host=b%2Cc");
        let named = resource(&[attributes]);
        assert!(has(&named, "service.name", "a") && has(&named, "host", "b,c"));
        let named = resource(&[attributes, ("OTEL_SERVICE_NAME", "d")]);
        assert!(has(&named, "service.name", "d") && !has(&named, "service.name", "a"));
    }

    #[test]
    fn errors_name_the_variable_and_what_it_expects() {
        for (name, value, expected) in [
            (
                "OTEL_EXPORTER_OTLP_PROTOCOL",
                "http/json",
                "set it to http/protobuf or grpc",
            ),
            (
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
                "x",
                "set it to http/protobuf or grpc",
            ),
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "localhost:4318",
                "http://localhost:4318",
            ),
            (
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "ftp://a",
                "http://localhost:4318",
            ),
            ("OTEL_EXPORTER_OTLP_HEADERS", "secret", "NAME=VALUE"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "gzip or none"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "a number from 1"),
            (
                "OTEL_EXPORTER_OTLP_CLIENT_KEY",
                "key.pem",
                "CLIENT_CERTIFICATE",
            ),
            ("OTEL_TRACES_EXPORTER", "zipkin", "otlp or none"),
            ("OTEL_TRACES_SAMPLER", "sometimes", "always_on"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "a number from 1"),
            (
                "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
                "4096",
                "at most OTEL_BSP_MAX_QUEUE_SIZE",
            ),
            ("OTEL_METRIC_EXPORT_INTERVAL", "-1", "a number from 1"),
            ("OTEL_RESOURCE_ATTRIBUTES", "=b", "NAME=VALUE"),
            ("OTEL_SDK_DISABLED", "maybe", "true or false"),
        ] {
            // The last one of two with the same name is not read.
            let error = read(&[(name, value), ENDPOINT]).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(name) && error.contains(expected), "{error}");
        }
        let ratio = [
            ENDPOINT,
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ];
        let error = read(&ratio).unwrap_err().to_string();
        assert!(error.contains("OTEL_TRACES_SAMPLER_ARG"), "{error}");
        let secret = [ENDPOINT, ("OTEL_EXPORTER_OTLP_HEADERS", "a=s%0Aecret")];
        let error = read(&secret).unwrap_err().to_string();
        assert!(!error.contains("ecret\""), "{error}");
    }
}
