//! `--watch`: what is saved is served, and nobody who is connected notices more than they should.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tests::{PATIENCE, Server, eventually, request, workspace};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// An application in a folder of its own, whose component is built by copying.
struct Project(TempDir);

/// What makes `app.wasm`: a compiler for tests. It says what it is told to say, waits as long as it
/// is told to wait, fails when the source says so, and keeps a list of its runs.
const COMPILER: &str = r#"
echo run >> runs
while [ -e wait ]; do sleep 0.01; done
if grep -q mistake src/lib.rs; then
    printf '\033[1m\033[31merror\033[0m: <b>mistake</b> in src/lib.rs\n' >&2
    exit 1
fi
cp "$(cat src/lib.rs)" app.new
mv app.new app.wasm
"#;

impl Project {
    /// The probe component, with more in its table.
    fn new(more: &str) -> Result<Self> {
        Self::of(
            &wasm("probe"),
            &format!(
                r#"
spin_manifest_version = 2
application.name = "watched"
[[trigger.http]]
route = "/..."
component = "app"
[component.app]
source = "app.wasm"
files = ["globbed/*.txt", {{ source = "static", destination = "/static" }}]
[component.app.build]
command = "sh compiler"
watch = ["src/**/*.rs"]
{more}"#
            ),
        )
    }

    /// An application with this manifest; `first` is what its source names.
    fn of(first: &Path, manifest: &str) -> Result<Self> {
        let project = Self(TempDir::new()?);
        for folder in ["src", "static", "globbed"] {
            fs::create_dir(project.path(folder))?;
        }
        project.write("static/page.css", "one")?;
        project.write("static/page.js", "one")?;
        project.write("globbed/a.txt", "one")?;
        project.write("compiler", COMPILER)?;
        project.write("src/lib.rs", &first.display().to_string())?;
        project.write("spin.toml", manifest)?;
        Ok(project)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    /// Saves a file in the way of most editors: another takes its place.
    fn write(&self, file: &str, text: &str) -> Result<()> {
        let new = self.path(&format!("{file}~"));
        fs::write(&new, text)?;
        Ok(fs::rename(new, self.path(file))?)
    }

    /// Saves another manifest, in which `old` is `new`.
    fn rewrite(&self, old: &str, new: &str) -> Result<()> {
        let manifest = fs::read_to_string(self.path("spin.toml"))?;
        ensure!(manifest.contains(old), "no {old:?} in {manifest}");
        self.write("spin.toml", &manifest.replace(old, new))
    }

    /// How often the compiler ran.
    fn runs(&self) -> usize {
        let runs = fs::read_to_string(self.path("runs")).unwrap_or_default();
        runs.lines().count()
    }

    fn start(&self) -> Result<Server> {
        Server::start(self.0.path(), &["--watch"])
    }
}

/// A component that the tests build.
fn wasm(name: &str) -> PathBuf {
    workspace().join(format!("target/wasm32-wasip2/component/{name}.wasm"))
}

/// What a page hears.
struct Stream {
    socket: TcpStream,
    heard: String,
    /// The last state that was heard.
    state: Value,
}

impl Stream {
    async fn open(host: &Server) -> Result<Self> {
        let mut socket = TcpStream::connect(host.address).await?;
        let head = format!(
            "GET /.socket-host/reload HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n\r\n",
            host.address
        );
        socket.write_all(head.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tokio::time::timeout(PATIENCE, socket.read_u8()).await??);
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        ensure!(
            head.contains(" 200 ") && head.contains("content-type: text/event-stream"),
            "{head}"
        );
        let mut stream = Self {
            socket,
            heard: String::new(),
            state: Value::Null,
        };
        stream.next().await?;
        Ok(stream)
    }

    /// Waits for the next state.
    async fn next(&mut self) -> Result<()> {
        let mut bytes = vec![0; 128 << 10];
        loop {
            // Each event is a chunk, and so is whole within the chunks' framing.
            if let Some((_, rest)) = self.heard.split_once("data: ")
                && let Some((event, after)) = rest.split_once("\n\n")
            {
                self.state = serde_json::from_str(event)?;
                self.heard = after.to_owned();
                return Ok(());
            }
            let read = tokio::time::timeout(PATIENCE, self.socket.read(&mut bytes));
            let length = read.await.context("nothing is told")??;
            ensure!(length > 0, "the stream ended: {}", self.heard);
            self.heard += &String::from_utf8_lossy(&bytes[..length]);
        }
    }

    /// Waits for a state in which this holds.
    async fn until(&mut self, what: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
        let told = async {
            while !holds(&self.state) {
                self.next().await?;
            }
            Ok(())
        };
        match tokio::time::timeout(PATIENCE, told).await {
            Ok(told) => told,
            Err(_) => bail!("waited in vain for {what}: {}", self.state),
        }
    }

    /// How often pages were told to load again, and to take their style sheets again.
    fn told(&self) -> (u64, u64) {
        let count = |name: &str| self.state[name].as_u64().unwrap_or_default();
        (count("pages"), count("styles"))
    }

    /// Waits until pages are told to load again; more than once is a failure.
    async fn pages(&mut self) -> Result<()> {
        let (pages, styles) = self.told();
        self.until("pages", |state| state["pages"] != pages).await?;
        ensure!(self.told() == (pages + 1, styles), "{}", self.state);
        Ok(())
    }

    /// Waits until pages are told to take their style sheets again, and nothing else.
    async fn styles(&mut self) -> Result<()> {
        let (pages, styles) = self.told();
        self.until("styles", |state| state["styles"] != styles)
            .await?;
        ensure!(self.told() == (pages, styles + 1), "{}", self.state);
        Ok(())
    }

    fn problems(&self) -> String {
        self.state["problems"].to_string()
    }

    async fn mended(&mut self) -> Result<()> {
        self.until("no problem", |state| {
            state["problems"] == serde_json::json!([])
        })
        .await
    }

    async fn broken(&mut self) -> Result<String> {
        self.until("a problem", |state| {
            state["problems"] != serde_json::json!([])
        })
        .await?;
        Ok(self.problems())
    }
}

#[tokio::test]
async fn what_is_saved_is_built_and_served_and_a_failed_build_leaves_what_there_was() -> Result<()>
{
    let project = Project::new("")?;
    let host = project.start()?;
    ensure!(project.runs() == 1, "it is built first");
    ensure!(host.get("/").await? == (200, "probe".into()));
    let mut page = Stream::open(&host).await?;

    project.write("src/lib.rs", "mistake")?;
    let problem = page.broken().await?;
    for words in [
        "component app",
        "sh compiler",
        "<b>mistake</b> in src/lib.rs",
        "\\u001b[31merror",
    ] {
        ensure!(problem.contains(words), "no {words:?} in {problem}");
    }
    host.logged(&["<b>mistake</b> in src/lib.rs"]).await?;
    host.logged(&["ERROR", "sh compiler", "exit status: 1"])
        .await?;
    ensure!(
        host.get("/").await? == (200, "probe".into()),
        "it still serves"
    );
    ensure!(page.told() == (0, 0), "{}", page.state);
    // A page that is opened meanwhile is told at once.
    ensure!(Stream::open(&host).await?.problems().contains("mistake"));

    project.write("src/lib.rs", &wasm("probe02").display().to_string())?;
    page.pages().await?;
    ensure!(page.problems() == "[]", "{}", page.state);
    ensure!(
        host.get("/host").await?.1 == host.address.to_string(),
        "the new one serves"
    );

    // A new file, in a new folder.
    fs::create_dir(project.path("src/deep"))?;
    let runs = project.runs();
    project.write("src/deep/mod.rs", "")?;
    eventually("a build", async || (project.runs() > runs).then_some(())).await?;
    let runs = project.runs();
    fs::remove_dir_all(project.path("src/deep"))?;
    eventually("a build", async || (project.runs() > runs).then_some(())).await?;
    // The same wasm as before: there is nothing to load again.
    project.write("static/page.css", "told of after all else")?;
    page.styles().await?;
    ensure!(page.told() == (1, 1));
    Ok(())
}

#[tokio::test]
async fn a_first_build_that_fails_leaves_what_was_built_before() -> Result<()> {
    let project = Project::new("")?;
    fs::copy(wasm("probe"), project.path("app.wasm"))?;
    project.write("src/lib.rs", "mistake")?;
    let host = project.start()?;
    ensure!(host.get("/").await? == (200, "probe".into()));
    let mut page = Stream::open(&host).await?;
    ensure!(page.problems().contains("mistake"));
    project.write("src/lib.rs", &wasm("probe").display().to_string())?;
    page.mended().await?;
    // Without anything to serve there is no start.
    let empty = Project::new("")?;
    empty.write("src/lib.rs", "mistake")?;
    let error = empty.start().err().context("it starts")?.to_string();
    ensure!(
        error.contains("<b>mistake</b>") && error.contains("app.wasm does not exist"),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn saves_during_a_build_lead_to_one_more() -> Result<()> {
    let project = Project::new("")?;
    let host = project.start()?;
    let mut page = Stream::open(&host).await?;
    project.write("wait", "")?;
    project.write("src/a.rs", "")?;
    eventually("a build", async || (project.runs() == 2).then_some(())).await?;
    for n in 0..5 {
        project.write("src/b.rs", &n.to_string())?;
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    project.write("src/lib.rs", &wasm("probe02").display().to_string())?;
    // Seen in another way: the style sheet is newer than the saves, and told of.
    project.write("static/page.css", "two")?;
    page.styles().await?;
    ensure!(project.runs() == 2, "it still builds");
    fs::remove_file(project.path("wait"))?;
    page.pages().await?;
    eventually("another build", async || {
        (project.runs() == 3).then_some(())
    })
    .await?;
    // Nor is there one more behind it: the next change makes the next run.
    project.write("src/c.rs", "")?;
    eventually("another build", async || {
        (project.runs() >= 4).then_some(())
    })
    .await?;
    project.write("static/page.css", "three")?;
    page.styles().await?;
    ensure!(project.runs() == 4, "{} runs", project.runs());
    Ok(())
}

#[tokio::test]
async fn static_files_are_served_as_they_are_and_pages_told() -> Result<()> {
    let project = Project::new("")?;
    let host = project.start()?;
    let mut page = Stream::open(&host).await?;
    let read = async |path: &str| host.get(&format!("/read?path={path}")).await;
    ensure!(read("/static/page.css").await?.1 == "one");

    project.write("static/page.css", "two")?;
    page.styles().await?;
    ensure!(read("/static/page.css").await?.1 == "two");
    // In place, as other editors save.
    fs::write(project.path("static/page.css"), "three")?;
    page.styles().await?;
    ensure!(read("/static/page.css").await?.1 == "three");

    project.write("static/page.js", "two")?;
    page.pages().await?;
    // Picked by a glob, and so gathered elsewhere: replaced, new, and deleted.
    ensure!(read("/globbed/a.txt").await?.1 == "one");
    project.write("globbed/a.txt", "two")?;
    page.pages().await?;
    ensure!(read("/globbed/a.txt").await?.1 == "two");
    project.write("globbed/b.txt", "new")?;
    page.pages().await?;
    ensure!(read("/globbed/b.txt").await?.1 == "new");
    fs::remove_file(project.path("globbed/b.txt"))?;
    page.pages().await?;
    ensure!(read("/globbed/b.txt").await?.0 == 502);

    // A folder goes and comes back with other files, as when a branch is checked out.
    let other = project.path("other");
    fs::rename(project.path("static"), &other)?;
    fs::create_dir(project.path("static"))?;
    for n in 0..300 {
        fs::write(project.path(&format!("static/{n}.js")), "x")?;
    }
    let read_last = async || (read("/static/299.js").await.ok()?.1 == "x").then_some(());
    eventually("the new files", read_last).await?;
    // The new folder is watched as the old one was. What came in more than one look is told before
    // this, or with it.
    let (_, styles) = page.told();
    let mut saves = 0;
    while page.told().1 == styles {
        saves += 1;
        ensure!(
            saves < 100,
            "no style sheet of the new folder is told of: {}",
            page.state
        );
        project.write("static/last.css", &saves.to_string())?;
        let told = page.until("styles", |state| state["styles"] != styles);
        let _ = tokio::time::timeout(Duration::from_millis(500), told).await;
    }
    page.mended().await?;
    // What was moved away is none of its any more.
    fs::write(other.join("page.css"), "four")?;
    project.write("static/page.css", "five")?;
    page.styles().await
}

#[tokio::test]
async fn a_changed_manifest_is_served_and_one_that_is_wrong_is_not() -> Result<()> {
    let project = Project::new("[component.app.environment]\nWORD = \"one\"\n")?;
    let host = project.start()?;
    let mut page = Stream::open(&host).await?;
    ensure!(host.get("/env").await?.1.contains(r#""WORD":"one""#));

    project.rewrite("WORD = \"one\"", "WORD = \"two\"")?;
    page.pages().await?;
    ensure!(host.get("/env").await?.1.contains(r#""WORD":"two""#));

    project.rewrite("source = \"app.wasm\"", "sauce = \"app.wasm\"")?;
    let problem = page.broken().await?;
    ensure!(
        problem.contains("component.app.sauce") && problem.contains("spin.toml:"),
        "{problem}"
    );
    host.logged(&["component.app.sauce"]).await?;
    ensure!(
        host.get("/env").await?.1.contains(r#""WORD":"two""#),
        "it still serves"
    );
    // What is served is still watched.
    project.write("static/page.css", "two")?;
    page.styles().await?;
    project.rewrite("sauce", "source")?;
    page.pages().await?;
    ensure!(page.problems() == "[]", "{}", page.state);

    // Another component, built for the first time; private routes; a timer; limits.
    project.write(
        "spin.toml",
        &(fs::read_to_string(project.path("spin.toml"))?
            + r#"
[[trigger.http]]
route = "/second/..."
component = "second"
[component.second]
source = "second/second.wasm"
[component.second.build]
command = ["mkdir -p second", "cp app.wasm second/second.wasm"]
[application.tool.socket-host]
private = ["/second/headers"]
[[application.tool.socket-host.timer]]
request = "GET /second/print?line=tick"
every = "50ms"
[application.tool.socket-host.websocket]
max-connections = 1
"#),
    )?;
    page.pages().await?;
    ensure!(
        host.get("/second/uri").await?.0 == 404,
        "the second component answers by itself"
    );
    ensure!(
        host.get("/second/headers")
            .await?
            .1
            .contains("nothing here"),
        "it is private"
    );
    let ticks = project.path(".spin/logs/second_stdout.txt");
    let count = || {
        fs::read_to_string(&ticks)
            .unwrap_or_default()
            .lines()
            .count()
    };
    host.logged(&["timer", "/second/print", "404"]).await?;
    ensure!(count() == 0);

    // What is not changed while it runs is said.
    project.rewrite(
        "spin_manifest_version = 2\n",
        "spin_manifest_version = 2\nvariables.grip_key = { default = \"\" }\n",
    )?;
    page.pages().await?;
    project.write(".env", "SPIN_VARIABLE_GRIP_KEY=a-key-of-another-host\n")?;
    let problem = page.broken().await?;
    ensure!(
        problem.contains("grip_key") && problem.contains("start the host again"),
        "{problem}"
    );
    fs::remove_file(project.path(".env"))?;
    page.mended().await?;
    Ok(())
}

#[tokio::test]
async fn pages_get_the_script_and_other_answers_do_not() -> Result<()> {
    let page = r#"<!doctype html><html><head><title>x</title></head><body>y</body></html>"#;
    let manifest = format!(
        r#"
spin_manifest_version = 2
application.name = "static"
[[trigger.http]]
route = "/page"
static_response = {{ headers = {{ content-type = "text/html; charset=utf-8", etag = '"a"', content-length = "{}" }}, body = '{page}' }}
[[trigger.http]]
route = "/text"
static_response = {{ headers = {{ content-type = "text/plain" }}, body = '{page}' }}
[[trigger.http]]
route = "/..."
static_response = {{ status_code = 404, body = "of the application" }}
"#,
        page.len()
    );
    let project = Project::of(Path::new("none"), &manifest)?;
    let ask = async |host: &Server, path: &str, more: &str| {
        let host = host.address;
        request(
            host,
            &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n"),
        )
        .await
    };
    let document = "Accept: text/html,*/*;q=0.8\r\nSec-Fetch-Dest: document\r\n";
    let host = project.start()?;
    for accept in [document, "Accept: text/html\r\n"] {
        let answer = ask(&host, "/page", accept).await?;
        let script = answer
            .body
            .find("<script src=\"/.socket-host/reload.js\" data-state=\"");
        ensure!(
            script < answer.body.find("</head>") && script.is_some(),
            "{answer:?}"
        );
        let rest = answer.body.replace(
            &answer.body[script.unwrap_or(0)..answer.body.find("</head>").unwrap_or(0)],
            "",
        );
        ensure!(rest == page, "{answer:?}");
        let head = answer.head.to_ascii_lowercase();
        ensure!(
            head.contains(&format!("content-length: {}\r\n", answer.body.len())),
            "{head}"
        );
        ensure!(
            !head.contains("etag") && head.contains("cache-control: no-store"),
            "{head}"
        );
    }
    for (path, accept) in [
        ("/page", ""),
        ("/page", "Accept: text/html\r\nSec-Fetch-Dest: empty\r\n"),
        ("/text", document),
    ] {
        let answer = ask(&host, path, accept).await?;
        ensure!(answer.body == page, "{path} {accept}: {answer:?}");
    }
    let script = ask(&host, "/.socket-host/reload.js", "").await?;
    ensure!(
        script.status == 200 && script.head.contains("text/javascript"),
        "{script:?}"
    );
    let elsewhere = ask(
        &host,
        "/.socket-host/reload",
        "Sec-Fetch-Site: cross-site\r\n",
    )
    .await?;
    ensure!(elsewhere.status == 403, "{elsewhere:?}");

    // Without --watch all of this is the application's.
    let host = Server::start(project.0.path(), &[])?;
    for path in ["/.socket-host/reload", "/.socket-host/reload.js"] {
        let answer = ask(&host, path, document).await?;
        ensure!(
            answer.status == 404 && answer.body == "of the application",
            "{answer:?}"
        );
    }
    ensure!(ask(&host, "/page", document).await?.body == page);
    Ok(())
}

#[tokio::test]
async fn the_end_of_the_host_is_the_end_of_its_streams_and_builds() -> Result<()> {
    let project = Project::new("")?;
    let host = project.start()?;
    let mut page = Stream::open(&host).await?;
    project.write("wait", "")?;
    project.write("src/a.rs", "")?;
    eventually("a build", async || (project.runs() == 2).then_some(())).await?;
    host.signal(Signal::TERM)?;
    let start = std::time::Instant::now();
    ensure!(host.ended().await? == Some(0));
    ensure!(
        start.elapsed() < Duration::from_secs(20),
        "it drained for too long"
    );
    ensure!(page.next().await.is_err());
    Ok(())
}

/// Sockets that are open while components are replaced.
const SOCKETS: usize = 200;
/// How often one is replaced.
const SWAPS: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_is_replaced_under_load_and_nobody_is_disturbed() -> Result<()> {
    // The order service says what it makes of nonsense; each build says it in other words.
    const WORDS: &str = "unknown event: ";
    let code = fs::read(wasm("orders"))?;
    let places: Vec<_> = (0..code.len() - WORDS.len())
        .filter(|&at| &code[at..at + WORDS.len()] == WORDS.as_bytes())
        .collect();
    ensure!(
        places.len() == 1,
        "{WORDS:?} is in the component at {places:?}"
    );
    let words = |build: usize| format!("unknown ev{build:03}: ");
    let folder = tests::closed_burger();
    let built = |build: usize| -> Result<PathBuf> {
        let mut code = code.clone();
        code[places[0]..places[0] + WORDS.len()].copy_from_slice(words(build).as_bytes());
        let file = folder.path().join(format!("{build}.built"));
        fs::write(&file, code)?;
        Ok(file)
    };
    let manifest = folder.path().join("spin.toml");
    let text = fs::read_to_string(&manifest)?;
    let source = format!(
        "{}/target/wasm32-wasip2/component/orders.wasm",
        workspace().display()
    );
    ensure!(text.contains(&source) && text.contains("components/build orders"));
    fs::write(
        &manifest,
        text.replace(&source, "orders.wasm")
            .replace(
                "components/build orders",
                "cp $(cat next) orders.new && mv orders.new orders.wasm",
            )
            .replace("components/build page", "true")
            .replace("components/orders/**/*.rs", "next"),
    )?;
    let save = |build: usize| -> Result<()> {
        Ok(fs::write(
            folder.path().join("next"),
            built(build)?.display().to_string(),
        )?)
    };
    save(0)?;
    let host = Arc::new(Server::start(folder.path(), &["--watch", "--quiet"])?);
    let mut page = Stream::open(&host).await?;

    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        sockets.push(host.socket("/api/ws").await?);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicUsize::new(0));
    let mut load = tokio::task::JoinSet::new();
    // Steady requests, each on a connection of its own or kept: every answer must be right.
    for path in [
        "/api/orders",
        "/api/orders?limit=1",
        "/",
        "/static/favicon.svg",
    ] {
        let (host, stop, asked) = (host.clone(), stop.clone(), asked.clone());
        load.spawn(async move {
            while !stop.load(SeqCst) {
                let (status, body) = host.get(path).await?;
                ensure!(status == 200, "{path}: {status} {body}");
                asked.fetch_add(1, SeqCst);
            }
            Ok(())
        });
    }
    // And a talk on every socket.
    for mut socket in sockets {
        let stop = stop.clone();
        load.spawn(async move {
            while !stop.load(SeqCst) {
                socket.send(r#"{"event":"ping"}"#).await?;
                let pong = socket.event().await?;
                ensure!(pong["event"] == "pong", "{pong}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok(())
        });
    }

    let mut witness = host.socket("/api/ws").await?;
    for build in 1..=SWAPS {
        let before = asked.load(SeqCst);
        save(build)?;
        page.pages().await?;
        ensure!(page.problems() == "[]", "{}", page.state);
        // On the socket that was open all the time.
        witness.send(r#"{"event":"dance"}"#).await?;
        let error = witness.event_named("error").await?.to_string();
        ensure!(
            error.contains(&words(build)),
            "after build {build}: {error}"
        );
        eventually("requests in between", async || {
            (asked.load(SeqCst) > before + 20 || !load.is_empty() && load.len() < SOCKETS)
                .then_some(())
        })
        .await?;
    }
    stop.store(true, SeqCst);
    let mut ended = 0;
    while let Some(task) = load.join_next().await {
        task??;
        ended += 1;
    }
    ensure!(ended == SOCKETS + 4);
    ensure!(host.count("sessions").await? <= 201);
    let log = host.log().lock().map(|log| log.clone()).unwrap_or_default();
    ensure!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
    Ok(())
}
