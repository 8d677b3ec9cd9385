//! Tests of build commands, with real processes.

use std::{fs, path::Path};

use rustix::process::{Pid, Signal};
use spin_runtime::ManifestUse;

use super::*;

/// Returns a manifest whose components share one wasm file, which exists.
fn manifest(folder: &Path, builds: &[(&str, &str)]) -> Manifest {
    fs::write(folder.join("x.wasm"), "").unwrap();
    let component =
        |(id, build): &(&str, &str)| format!("[component.{id}]\nsource = \"x.wasm\"\n{build}\n");
    let components: String = builds.iter().map(component).collect();
    let text = format!(
        "spin_manifest_version = 2\napplication.name = \"test\"\n\
         trigger.http = [{{ route = \"/\", static_response = {{}} }}]\n{components}"
    );
    Manifest::parse(&text, folder.join("spin.toml"), ManifestUse::Embedded).unwrap()
}

#[tokio::test]
async fn commands_run_in_order_in_their_workdir() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    let manifest = manifest(
        folder.path(),
        &[
            (
                "a",
                "build = { command = [\"printf 1 >> ../log\", \"printf $WORD >> ../log\"], workdir = \"sub\", environment = { WORD = \"two\" } }",
            ),
            ("b", "build.command = \"printf 3 >> log\""),
            ("c", ""),
        ],
    );
    build(&manifest, None).await.unwrap();
    assert_eq!(
        fs::read_to_string(folder.path().join("log")).unwrap(),
        "1two3"
    );
    build(&manifest, Some(&["b".to_owned(), "c".to_owned()]))
        .await
        .unwrap();
    assert_eq!(
        fs::read_to_string(folder.path().join("log")).unwrap(),
        "1two33"
    );
}

#[tokio::test]
async fn the_first_failure_stops_the_build() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = manifest(
        folder.path(),
        &[
            ("a", "build.command = [\"exit 3\", \"touch later\"]"),
            ("b", "build.command = \"touch later\""),
        ],
    );
    let error = build(&manifest, None).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "component a: build command `exit 3` failed with exit status: 3"
    );
    assert!(!folder.path().join("later").exists());
}

#[tokio::test]
async fn a_build_that_does_not_create_the_component_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let builds = [
        ("a", "build.command = [\"true\", \"touch y.wasm\"]"),
        ("b", "build.command = \"test ! -e create || touch x.wasm\""),
        ("c", ""),
    ];
    let manifest = manifest(folder.path(), &builds);
    let wasm = folder.path().join("x.wasm");
    fs::remove_file(&wasm).unwrap();
    let error = build(&manifest, None).await.unwrap_err().to_string();
    let expected = format!(
        "component a: the build command `true && touch y.wasm` ran and did not create {}: \
         correct the command, or `source` of [component.a]",
        wasm.display()
    );
    assert_eq!(error, expected);
    let only = |id: &str| [id.to_owned()];
    let error = build(&manifest, Some(&only("b"))).await.unwrap_err();
    assert!(error.to_string().contains("component b: "), "{error}");
    // A component without a build command is checked when it is loaded.
    build(&manifest, Some(&only("c"))).await.unwrap();
    // The last command creates what the first component needs.
    fs::write(folder.path().join("create"), "").unwrap();
    build(&manifest, None).await.unwrap();
}

#[tokio::test]
async fn errors_name_unknown_components_and_missing_folders() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = manifest(
        folder.path(),
        &[
            (
                "orders",
                "build = { command = \"touch ran\", workdir = \"none\" }",
            ),
            ("page", "build.command = \"touch ran\""),
        ],
    );
    let error = build(&manifest, Some(&["page".to_owned(), "order".to_owned()]))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("did you mean `orders`") && error.contains("orders, page"),
        "{error}"
    );
    let error = build(&manifest, None).await.unwrap_err().to_string();
    assert!(
        error.contains("component.orders.build.workdir") && error.contains("none"),
        "{error}"
    );
    assert!(!folder.path().join("ran").exists());
}

#[tokio::test]
async fn output_is_kept_in_order_and_truncated_at_the_beginning() {
    let build = |command: &str| Build {
        commands: vec![command.to_owned()],
        workdir: std::env::temp_dir(),
        watch: Vec::new(),
        environment: Default::default(),
    };
    let mut output = OutputTail::default();
    let failing = build("echo one; echo two >&2; echo three; exit 1");
    assert!(
        build_component("a", &failing, Some(&mut output))
            .await
            .is_err()
    );
    assert_eq!(output.text(), "one\ntwo\nthree\n");

    let mut output = OutputTail::default();
    let long = build("for n in $(seq 100 199); do printf '%01000d\\n' $n; done");
    build_component("a", &long, Some(&mut output))
        .await
        .unwrap();
    let text = output.text();
    assert!(text.len() <= MAX_OUTPUT_BYTES + 100 && text.ends_with("199\n"));
    let (notice, lines) = text.split_once('\n').unwrap();
    assert_eq!(notice, "… earlier output is in the terminal");
    assert!(lines.lines().all(|line| line.len() == 1000), "{lines}");
}

#[tokio::test]
async fn background_processes_do_not_delay_the_build() {
    for command in [
        "sleep 20 & echo $!",
        "while sleep 0.01; do echo chatter; done & echo $!",
    ] {
        let build = Build {
            commands: vec![command.to_owned()],
            workdir: std::env::temp_dir(),
            watch: Vec::new(),
            environment: Default::default(),
        };
        let mut output = OutputTail::default();
        let built = build_component("a", &build, Some(&mut output));
        timeout(Duration::from_secs(10), built)
            .await
            .unwrap()
            .unwrap();
        let text = output.text();
        let pid = text.lines().find_map(|line| line.parse().ok()).unwrap();
        let pid = Pid::from_raw(pid).unwrap();
        // The one that writes has exited already, because its pipe is closed.
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

#[tokio::test]
async fn a_build_that_uses_the_terminal_fails() {
    let folder = tempfile::tempdir().unwrap();
    // The system sends SIGTTIN to a background group that reads from its terminal.
    let manifest = manifest(
        folder.path(),
        &[("a", "build.command = \"kill -s TTIN 0; touch later\"")],
    );
    let component = manifest.components["a"].build.as_ref().unwrap();
    for captured in [false, true] {
        let mut output = OutputTail::default();
        let built = build_component("a", component, captured.then_some(&mut output));
        let built = timeout(Duration::from_secs(20), built).await;
        let error = format!("{:#}", built.expect("the build hangs").unwrap_err());
        assert!(
            error.contains("component a") && error.contains("use the terminal"),
            "{error}"
        );
    }
    assert!(!folder.path().join("later").exists());
}

/// Runs a build until it writes a file with process ids, drops it, and returns the ids.
#[cfg(target_os = "linux")]
async fn run_until_started(build: &Build, folder: &Path, captured: bool) -> String {
    let pids = folder.join("pids");
    let mut output = OutputTail::default();
    let output = captured.then_some(&mut output);
    let started = async {
        while !pids.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        result = build_component("a", build, output) => panic!("the build finished: {result:?}"),
        () = started => {}
    }
    let text = fs::read_to_string(&pids).unwrap();
    fs::remove_file(&pids).unwrap();
    text
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn dropping_a_build_terminates_its_processes() {
    let folder = tempfile::tempdir().unwrap();
    // One handles SIGTERM, and one ignores it.
    for (trap, handles_term) in [
        ("trap 'touch ended; exit' TERM", true),
        ("trap '' TERM", false),
    ] {
        let command = format!("{trap}; sleep 600 & echo $$ $! > pids.new; mv pids.new pids; wait");
        let manifest = manifest(
            folder.path(),
            &[("a", &format!("build.command = {command:?}"))],
        );
        let build = manifest.components["a"].build.as_ref().unwrap();
        for captured in [false, true] {
            let pids = run_until_started(build, folder.path(), captured).await;
            for pid in pids.split_whitespace() {
                wait_for_exit(pid).await;
            }
            let ended = folder.path().join("ended");
            assert_eq!(fs::remove_file(ended).is_ok(), handles_term, "{trap}");
        }
    }
}

/// Waits until a process exits. A zombie counts as exited: it may be reaped later, or never.
#[cfg(target_os = "linux")]
async fn wait_for_exit(pid: &str) {
    let stat = Path::new("/proc").join(pid).join("stat");
    for _ in 0..2000 {
        match fs::read_to_string(&stat) {
            Ok(stat) if !stat.contains(") Z ") => {}
            _ => return,
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("process {pid} is still running");
}
