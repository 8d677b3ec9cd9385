//! The recipe in `packaging/kubernetes`: its parts fit together, and the command line of the host works
//! in front of Spin.

use std::{fs, net::SocketAddr, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize as _;
use serde_json::{Value, json};
use serde_yaml_ng::Deserializer;
use socket_host::Limits;
use tests::{
    Redis, Server, Upstream, code_block, eventually, free_address, host_binary, kitchen, request,
    workspace,
};

/// The key that would be in the Secret.
const KEY: &str = "the key of the cluster";

/// The addresses in the recipe that are others in the tests.
const UPSTREAM: &str = "--upstream=http://burger";
const MANIFEST: &str = "--from=/etc/burger/spin.toml";
const LISTEN: &str = "--listen=0.0.0.0:3000";
const CONTROL: &str = "--control=0.0.0.0:5561";
const BUS: &str = "--bus=redis://redis:6379/1";

/// The objects of all files.
struct Recipe(Vec<Value>);

impl Recipe {
    fn load() -> Result<Self> {
        let mut objects = Vec::new();
        for entry in fs::read_dir(workspace().join("packaging/kubernetes"))? {
            let path = entry?.path();
            let text = fs::read_to_string(&path)?;
            for document in Deserializer::from_str(&text) {
                let object = Value::deserialize(document);
                objects.push(object.with_context(|| path.display().to_string())?);
            }
        }
        Ok(Self(objects))
    }

    /// Returns the specification of an object.
    fn spec(&self, kind: &str, name: &str) -> Result<&Value> {
        let mut objects = self.0.iter();
        let object = objects.find(|it| it["kind"] == kind && it["metadata"]["name"] == name);
        Ok(&object.with_context(|| format!("no {kind} {name}"))?["spec"])
    }

    fn pod(&self) -> Result<&Value> {
        Ok(&self.spec("Deployment", "socket-host")?["template"])
    }

    fn container(&self) -> Result<&Value> {
        Ok(&self.pod()?["spec"]["containers"][0])
    }

    /// Returns the command line of the host.
    fn arguments(&self) -> Result<Vec<String>> {
        let arguments = self.container()?["args"].as_array().context("args")?;
        let arguments = arguments.iter().map(|it| Some(it.as_str()?.to_owned()));
        arguments.collect::<Option<_>>().context("texts")
    }

    /// Returns the number of a port of the container.
    fn port(&self, name: &str) -> Result<&Value> {
        let ports = self.container()?["ports"].as_array().context("ports")?;
        let port = ports.iter().find(|port| port["name"] == name);
        Ok(&port.with_context(|| format!("no port {name}"))?["containerPort"])
    }
}

#[test]
fn options_of_the_host_exist() -> Result<()> {
    let arguments = Recipe::load()?.arguments()?;
    // Options that do not exist are an error with `--help` too.
    let output = Command::new(host_binary())
        .args(&arguments)
        .arg("--help")
        .output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments:?}: {stderr}");
    for argument in [MANIFEST, UPSTREAM, LISTEN, CONTROL, BUS] {
        ensure!(arguments.iter().any(|it| it == argument), "{argument}");
    }
    Ok(())
}

#[test]
fn the_parts_of_the_recipe_fit_together() -> Result<()> {
    let recipe = Recipe::load()?;
    let app = recipe.spec("SpinApp", "burger")?;
    let pod = recipe.pod()?;

    // The upstream is the Service of the SpinApp, which has its name and port 80.
    ensure!(recipe.arguments()?.contains(&UPSTREAM.to_owned()));
    // The components publish to the control port.
    let control = recipe.spec("Service", "socket-host-control")?;
    let port = &control["ports"][0]["port"];
    let url = format!("http://socket-host-control:{port}");
    ensure!(app["variables"][0] == json!({"name": "grip_url", "value": url}));
    // Both have the key of one Secret.
    let key = &recipe.container()?["env"][0];
    ensure!(key["name"] == "SOCKET_HOST_GRIP_KEY", "{key}");
    ensure!(app["variables"][1]["name"] == "grip_key");
    ensure!(app["variables"][1]["valueFrom"] == key["valueFrom"]);
    // The orders and the bus are in two databases of a server.
    let store = &app["runtimeConfig"]["keyValueStores"][0];
    ensure!(
        store["options"][0]["value"] == "redis://redis:6379/0",
        "{store}"
    );

    // Services, probes and policies name ports that exist, and pods by their labels.
    let labels = &pod["metadata"]["labels"];
    for (service, port) in [
        ("socket-host", "public"),
        ("socket-host-control", "control"),
    ] {
        let spec = recipe.spec("Service", service)?;
        ensure!(spec["selector"] == *labels, "{spec}");
        ensure!(spec["ports"][0]["targetPort"] == port, "{spec}");
    }
    ensure!(LISTEN.ends_with(&format!(":{}", recipe.port("public")?)));
    ensure!(CONTROL.ends_with(&format!(":{}", recipe.port("control")?)));
    for kind in ["Deployment", "PodDisruptionBudget"] {
        let spec = recipe.spec(kind, "socket-host")?;
        ensure!(spec["selector"]["matchLabels"] == *labels, "{spec}");
    }
    let policy = recipe.spec("NetworkPolicy", "socket-host")?;
    ensure!(policy["podSelector"]["matchLabels"] == *labels, "{policy}");
    let spin_pods = json!({"core.spinkube.dev/app-name": "burger"});
    let publishers = &policy["ingress"][1];
    ensure!(
        publishers["from"][0]["podSelector"]["matchLabels"] == spin_pods,
        "{policy}"
    );
    ensure!(publishers["ports"][0]["port"] == "control", "{policy}");
    let policy = recipe.spec("NetworkPolicy", "burger")?;
    ensure!(
        policy["podSelector"]["matchLabels"] == spin_pods,
        "{policy}"
    );
    ensure!(policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"] == *labels);
    let route = recipe.spec("HTTPRoute", "burger")?;
    let service = &recipe.spec("Service", "socket-host")?["ports"][0];
    let backend = &route["rules"][0]["backendRefs"][0];
    ensure!(backend["name"] == "socket-host" && backend["port"] == service["port"]);

    // Kubernetes kills the host only after it has drained.
    let arguments = recipe.arguments()?;
    let drain = arguments
        .iter()
        .find_map(|it| it.strip_prefix("--drain-over="));
    let drain: u64 = drain
        .context("--drain-over")?
        .trim_end_matches('s')
        .parse()?;
    let needed = Duration::from_secs(drain) + Limits::DEFAULT.drain_timeout;
    let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64();
    ensure!(Duration::from_secs(grace.context("a number")?) > needed);

    // The documentation creates the Secret and the ConfigMap.
    let commands = code_block("kubernetes.md", "sh", "kubectl create secret")?;
    let volume = &pod["spec"]["volumes"][0]["configMap"]["name"];
    for name in [volume, &key["valueFrom"]["secretKeyRef"]["name"]] {
        ensure!(
            commands.contains(name.as_str().context("a name")?),
            "{name}"
        );
    }
    Ok(())
}

/// Starts a host with the command line of the recipe. `control` has no port if any will do.
fn start_host(
    recipe: &Recipe,
    manifest: &str,
    upstream: SocketAddr,
    redis: SocketAddr,
    control: &str,
) -> Result<Server> {
    let replacements = [
        (MANIFEST, format!("--from={manifest}")),
        (UPSTREAM, format!("--upstream=http://{upstream}")),
        (LISTEN, String::new()),
        (CONTROL, String::new()),
        (BUS, format!("--bus=redis://{redis}/1")),
    ];
    let mut command = Command::new(host_binary());
    command.env("SOCKET_HOST_GRIP_KEY", KEY);
    for argument in recipe.arguments()? {
        let mut replacements = replacements.iter();
        match replacements.find(|(from, _)| *from == argument) {
            Some((_, to)) if to.is_empty() => {}
            Some((_, to)) => _ = command.arg(to),
            None => _ = command.arg(argument),
        }
    }
    Server::run(command, &["--listen", "0.0.0.0:0", "--control", control])
}

#[tokio::test]
async fn two_hosts_serve_the_orders_of_spin() -> Result<()> {
    let recipe = Recipe::load()?;
    let redis = Redis::start()?;
    let folder = kitchen(redis.address, "100ms")?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    // The Service of the control ports is the one of the first host.
    let control = free_address()?;
    let spin = Upstream::start(
        folder.path(),
        &[
            "--runtime-config-file",
            &path("runtime-config.toml"),
            "--variable",
            &format!("grip_url=http://{control}"),
            "--variable",
            &format!("grip_key={KEY}"),
        ],
    )?;
    let manifest = path("spin.toml");
    let any = format!("0.0.0.0:{}", control.port());
    let mut hosts = Vec::new();
    for control in [&*any, "0.0.0.0:0"] {
        hosts.push(start_host(
            &recipe,
            &manifest,
            spin.address,
            redis.address,
            control,
        )?);
    }
    let container = recipe.container()?;
    for host in &hosts {
        for probe in ["readinessProbe", "livenessProbe"] {
            let path = container[probe]["httpGet"]["path"].as_str();
            let path = path.with_context(|| format!("{probe} has no path"))?;
            // Kubernetes uses the address of the pod.
            let head = format!("GET {path} HTTP/1.1\r\nHost: 10.1.2.3:5561\r\n\r\n");
            eventually(probe, async || {
                let response = request(host.control, &head).await.ok()?;
                (response.status == 200).then_some(())
            })
            .await?;
        }
        // One of them has called the timer, and the components have published to the first.
        let mut socket = host.socket("/api/ws").await?;
        let first = socket.order().await?["id"].as_u64().context("an id")?;
        let second = socket.order().await?["id"].as_u64();
        ensure!(second == Some(first + 1), "{second:?} after {first}");
        let response = host.publish("", "{\"items\":[]}").await?;
        ensure!(response.status == 401, "{response:?}");
    }
    Ok(())
}
