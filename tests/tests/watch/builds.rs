//! What is saved is built, and what does not build changes nothing.

use std::{fs, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tests::{Server, eventually};

use crate::{
    project::{Project, wasm},
    stream::Stream,
};

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
    host.wait_for_log(&["<b>mistake</b> in src/lib.rs"]).await?;
    host.wait_for_log(&["ERROR", "sh compiler", "exit status: 1"])
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

/// A project that is served, with a page, whose second build waits for the end of the file `wait`.
async fn building() -> Result<(Project, Server, Stream)> {
    let project = Project::new("")?;
    let host = project.start()?;
    let page = Stream::open(&host).await?;
    project.write("wait", "")?;
    project.write("src/a.rs", "")?;
    eventually("a build", async || (project.runs() == 2).then_some(())).await?;
    Ok((project, host, page))
}

#[tokio::test]
async fn saves_during_a_build_lead_to_one_more() -> Result<()> {
    let (project, _host, mut page) = building().await?;
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
async fn the_end_of_the_host_is_the_end_of_its_streams_and_builds() -> Result<()> {
    let (_project, host, mut page) = building().await?;
    host.signal(Signal::TERM)?;
    let start = std::time::Instant::now();
    ensure!(host.wait().await? == Some(0));
    ensure!(
        start.elapsed() < Duration::from_secs(20),
        "it drained for too long"
    );
    ensure!(page.next().await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_component_that_goes_while_it_is_built_leaves_no_problem_behind() -> Result<()> {
    let project = Project::new("")?;
    let alone = fs::read_to_string(project.path("spin.toml"))?;
    let both = alone.clone()
        + r#"
[[trigger.http]]
route = "/second/..."
component = "second"
[component.second]
source = "app.wasm"
[component.second.build]
command = "touch begun; while [ -e wait ]; do sleep 0.01; done; echo second >> runs; exit 1"
watch = ["second"]
"#;
    project.write("spin.toml", &both)?;
    let host = project.start()?;
    let mut page = Stream::open(&host).await?;
    ensure!(
        page.broken().await?.contains("component second"),
        "{}",
        page.state
    );
    let runs = project.runs();
    project.write("wait", "")?;
    fs::remove_file(project.path("begun"))?;
    project.write("second", "changed")?;
    let begun = project.path("begun");
    eventually("a build", async || begun.exists().then_some(())).await?;
    project.write("spin.toml", &alone)?;
    page.pages().await?;
    ensure!(page.problems() == "[]", "{}", page.state);
    fs::remove_file(project.path("wait"))?;
    eventually("the end of its build", async || {
        (project.runs() > runs).then_some(())
    })
    .await?;
    // One at a time: what came of it has been noted before this is built.
    let runs = project.runs();
    project.write("src/a.rs", "")?;
    eventually("another build", async || {
        (project.runs() > runs).then_some(())
    })
    .await?;
    project.write("static/page.css", "two")?;
    page.styles().await?;
    ensure!(page.problems() == "[]", "{}", page.state);
    Ok(())
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_signal_ends_a_build_with_all_that_it_started() -> Result<()> {
    let project = Project::new("")?;
    project.rewrite(
        "sh compiler",
        "trap 'touch orderly; exit' TERM; sleep 600 & echo $! > pid.new; mv pid.new pid; wait",
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
        rustix::process::kill_process(process.context("it has ended")?, Signal::INT)?;
        ensure!(child.wait().await?.code() == Some(code), "{arguments:?}");
        // What it does at its end was done before the host's.
        fs::remove_file(project.path("orderly"))?;
        let started = fs::read_to_string(&pid)?;
        let stat = std::path::Path::new("/proc")
            .join(started.trim())
            .join("stat");
        eventually("the end of what it started", async || {
            // It may be left as a zombie where nobody adopts it.
            let runs = fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
            (!runs).then_some(())
        })
        .await?;
        fs::remove_file(&pid)?;
    }
    Ok(())
}
