//! Changed sources are built, and a failed build keeps the previous version.

use std::{fs, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tests::{Server, eventually, wasm};

use crate::{project::Project, reload_socket::ReloadSocket};

#[tokio::test]
async fn changed_sources_are_built_and_a_failed_build_keeps_the_previous_version() -> Result<()> {
    let project = Project::new("")?;
    let host = project.start()?;
    ensure!(project.runs() == 1, "the start builds the component");
    ensure!(host.get("/").await? == (200, "probe".into()));
    let mut page = ReloadSocket::open(&host).await?;

    project.write("src/lib.rs", "mistake")?;
    let problem = page.problem().await?;
    for text in [
        "component app",
        "sh compiler",
        "<b>mistake</b> in src/lib.rs",
        "\\u001b[31merror",
    ] {
        ensure!(problem.contains(text), "no {text:?} in {problem}");
    }
    host.wait_for_log(&["<b>mistake</b> in src/lib.rs"]).await?;
    host.wait_for_log(&["ERROR", "sh compiler", "exit status: 1"])
        .await?;
    ensure!(
        host.get("/").await? == (200, "probe".into()),
        "the previous version is served"
    );
    ensure!(page.counts() == (0, 0), "{}", page.state);
    // A new page receives the problem at once.
    ensure!(
        ReloadSocket::open(&host)
            .await?
            .problems()
            .contains("mistake")
    );

    project.write("src/lib.rs", &wasm("probe02").display().to_string())?;
    page.page_reload().await?;
    ensure!(page.problems() == "[]", "{}", page.state);
    ensure!(
        host.get("/host").await?.1 == "none",
        "the new version is served"
    );

    // A new file in a new folder triggers a build, and so does removing it.
    fs::create_dir(project.path("src/deep"))?;
    let runs = project.runs();
    project.write("src/deep/mod.rs", "")?;
    eventually("a build", async || (project.runs() > runs).then_some(())).await?;
    let runs = project.runs();
    fs::remove_dir_all(project.path("src/deep"))?;
    eventually("a build", async || (project.runs() > runs).then_some(())).await?;
    // The wasm is unchanged, so there was no page reload.
    project.write("static/page.css", "reloaded after everything else")?;
    page.style_reload().await?;
    ensure!(page.counts() == (1, 1));
    Ok(())
}

#[tokio::test]
async fn a_failed_first_build_serves_the_result_of_an_earlier_build() -> Result<()> {
    let project = Project::new("")?;
    fs::copy(wasm("probe"), project.path("app.wasm"))?;
    project.write("src/lib.rs", "mistake")?;
    let host = project.start()?;
    ensure!(host.get("/").await? == (200, "probe".into()));
    let mut page = ReloadSocket::open(&host).await?;
    ensure!(page.problems().contains("mistake"));
    project.write("src/lib.rs", &wasm("probe").display().to_string())?;
    page.no_problem().await?;
    // Without an earlier build, the start fails.
    let empty = Project::new("")?;
    empty.write("src/lib.rs", "mistake")?;
    let error = empty.start().err().context("the host started")?.to_string();
    ensure!(
        error.contains("<b>mistake</b>") && error.contains("app.wasm does not exist"),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn a_build_that_does_not_create_its_component_is_an_error() -> Result<()> {
    const PROBLEM: &str = "component app: the build command `sh compiler` ran and did not create ";
    let project = Project::new("")?;
    let (right, wrong) = ("source = \"app.wasm\"", "source = \"wrong.wasm\"");
    project.rewrite(right, wrong)?;
    for option in ["--build", "--watch"] {
        let error = Server::start(project.0.path(), &[option]).err();
        let error = error.context("the host started")?.to_string();
        let file = project.path("wrong.wasm");
        let expected = format!("error: {PROBLEM}{}: correct", file.display());
        ensure!(
            error.contains(&expected) && !error.contains("socket-host build"),
            "{option}: {error}"
        );
    }
    project.rewrite(wrong, right)?;
    let host = project.start()?;
    let mut page = ReloadSocket::open(&host).await?;
    project.rewrite(right, wrong)?;
    let problem = page.problem().await?;
    ensure!(
        problem.contains(PROBLEM) && problem.contains("wrong.wasm"),
        "{problem}"
    );
    ensure!(host.get("/").await? == (200, "probe".into()));
    project.rewrite(wrong, right)?;
    page.no_problem().await?;
    // The file is missing after a later build.
    project.write("compiler", "rm app.wasm")?;
    project.write("src/a.rs", "")?;
    let problem = page.problem().await?;
    ensure!(
        problem.contains(PROBLEM) && problem.contains("app.wasm"),
        "{problem}"
    );
    ensure!(host.get("/").await? == (200, "probe".into()));
    Ok(())
}

/// Starts a host and its second build, which runs until the file `wait` is removed.
async fn start_build() -> Result<(Project, Server, ReloadSocket)> {
    let project = Project::new("")?;
    let host = project.start()?;
    let page = ReloadSocket::open(&host).await?;
    project.write("wait", "")?;
    project.write("src/a.rs", "")?;
    eventually("a build", async || (project.runs() == 2).then_some(())).await?;
    Ok((project, host, page))
}

#[tokio::test]
async fn changes_during_a_build_lead_to_one_more_build() -> Result<()> {
    let (project, _host, mut page) = start_build().await?;
    for n in 0..5 {
        project.write("src/b.rs", &n.to_string())?;
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    project.write("src/lib.rs", &wasm("probe02").display().to_string())?;
    // The reload of the newer style sheet shows that the other changes were detected.
    project.write("static/page.css", "two")?;
    page.style_reload().await?;
    ensure!(project.runs() == 2, "the build is still running");
    fs::remove_file(project.path("wait"))?;
    page.page_reload().await?;
    eventually("another build", async || {
        (project.runs() == 3).then_some(())
    })
    .await?;
    // No further build follows: the next change causes the next run.
    project.write("src/c.rs", "")?;
    eventually("another build", async || {
        (project.runs() >= 4).then_some(())
    })
    .await?;
    project.write("static/page.css", "three")?;
    page.style_reload().await?;
    ensure!(project.runs() == 4, "{} runs", project.runs());
    Ok(())
}

#[tokio::test]
async fn stopping_the_host_closes_its_sockets_and_ends_its_builds() -> Result<()> {
    let (_project, host, mut page) = start_build().await?;
    host.signal(Signal::TERM)?;
    let start = std::time::Instant::now();
    ensure!(host.wait().await? == Some(0));
    ensure!(
        start.elapsed() < Duration::from_secs(20),
        "draining took too long"
    );
    ensure!(page.socket.closed().await? == Some(1001));
    Ok(())
}

#[tokio::test]
async fn removing_a_component_during_its_build_discards_the_failure() -> Result<()> {
    let project = Project::new("")?;
    let original = fs::read_to_string(project.path("spin.toml"))?;
    let extended = original.clone()
        + r#"
[[trigger.http]]
route = "/second/..."
component = "second"
[component.second]
source = "app.wasm"
[component.second.build]
command = "touch started; while [ -e wait ]; do sleep 0.01; done; echo second >> runs; exit 1"
watch = ["second"]
"#;
    project.write("spin.toml", &extended)?;
    let host = project.start()?;
    let mut page = ReloadSocket::open(&host).await?;
    ensure!(
        page.problem().await?.contains("component second"),
        "{}",
        page.state
    );
    let runs = project.runs();
    project.write("wait", "")?;
    fs::remove_file(project.path("started"))?;
    project.write("second", "changed")?;
    let started = project.path("started");
    eventually("a build", async || started.exists().then_some(())).await?;
    project.write("spin.toml", &original)?;
    page.page_reload().await?;
    ensure!(page.problems() == "[]", "{}", page.state);
    fs::remove_file(project.path("wait"))?;
    eventually("the end of the build", async || {
        (project.runs() > runs).then_some(())
    })
    .await?;
    // Builds run one at a time: this one starts after the result of the other has been recorded.
    let runs = project.runs();
    project.write("src/a.rs", "")?;
    eventually("another build", async || {
        (project.runs() > runs).then_some(())
    })
    .await?;
    project.write("static/page.css", "two")?;
    page.style_reload().await?;
    ensure!(page.problems() == "[]", "{}", page.state);
    Ok(())
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_signal_terminates_a_build_and_its_processes() -> Result<()> {
    let project = Project::new("")?;
    project.rewrite(
        "sh compiler",
        "trap 'touch terminated; exit' TERM; sleep 600 & echo $! > pid.new; mv pid.new pid; wait",
    )?;
    let pid = project.path("pid");
    for (arguments, code) in [(&["build"][..], 1), (&["up", "--build"], 0)] {
        let mut command = tokio::process::Command::new(tests::host_binary());
        command.args(arguments).arg("--from").arg(project.0.path());
        if arguments[0] == "up" {
            command.args(["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
        }
        let command = command.stdin(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn()?;
        eventually("a build", async || pid.exists().then_some(())).await?;
        let process = child.id().and_then(|id| id.try_into().ok());
        let process = process.and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(process.context("the process has exited")?, Signal::INT)?;
        ensure!(child.wait().await?.code() == Some(code), "{arguments:?}");
        // The host waited until the build had handled SIGTERM.
        fs::remove_file(project.path("terminated"))?;
        let child_pid = fs::read_to_string(&pid)?;
        let stat = std::path::Path::new("/proc")
            .join(child_pid.trim())
            .join("stat");
        eventually("the exit of its child process", async || {
            // It may remain as a zombie if no init process reaps it.
            let is_running = fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
            (!is_running).then_some(())
        })
        .await?;
        fs::remove_file(&pid)?;
    }
    Ok(())
}
