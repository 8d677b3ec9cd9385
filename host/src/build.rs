//! Runs the commands that build components: `[component.ID.build]`.

use anyhow::{Context as _, bail};
use tokio::process::Command;

use runtime::manifest::{Build, Manifest, suggest};

/// Builds the components that say how, one command after another, in the manifest's order of ids;
/// only those named, if some are. What the commands print goes to the terminal. When the future is
/// dropped, the running command is killed.
///
/// # Errors
/// The first command that fails, with its component and status; no later one is run. Before any
/// is run: a name that is no component's.
pub async fn build(manifest: &Manifest, only: Option<&[String]>) -> anyhow::Result<()> {
    for id in only.unwrap_or_default() {
        if !manifest.components.contains_key(id) {
            let known = manifest.components.keys().map(String::as_str);
            let suggestion = suggest(id, known.clone());
            bail!(
                "there is no component {id:?}{suggestion}; {} has {}",
                manifest.path.display(),
                known.collect::<Vec<_>>().join(", ")
            );
        }
    }
    let wanted = |id: &String| only.is_none_or(|only| only.contains(id));
    for (id, component) in &manifest.components {
        if let Some(build) = component.build.as_ref().filter(|_| wanted(id)) {
            build_one(id, build).await?;
        }
    }
    Ok(())
}

async fn build_one(id: &str, build: &Build) -> anyhow::Result<()> {
    if !build.workdir.is_dir() {
        bail!(
            "component.{id}.build.workdir: there is no folder {}",
            build.workdir.display()
        );
    }
    for command in &build.commands {
        eprintln!("Building component {id} with `{command}`");
        let status = Command::new("sh")
            .args(["-c", command])
            .current_dir(&build.workdir)
            .envs(&build.environment)
            .kill_on_drop(true)
            .status()
            .await
            .with_context(|| {
                format!("component {id}: cannot run the build command `{command}` with `sh`")
            })?;
        if !status.success() {
            bail!("component {id}: the build command `{command}` failed with {status}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn manifest(folder: &Path, builds: &[(&str, &str)]) -> Manifest {
        let component = |(id, build): &(&str, &str)| {
            format!("[component.{id}]\nsource = \"x.wasm\"\n{build}\n")
        };
        let components: String = builds.iter().map(component).collect();
        let text = format!(
            "spin_manifest_version = 2\napplication.name = \"test\"\n\
             trigger.http = [{{ route = \"/\", static_response = {{}} }}]\n{components}"
        );
        Manifest::parse(&text, folder.join("spin.toml")).unwrap()
    }

    #[tokio::test]
    async fn commands_run_in_order_where_they_should() {
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
    async fn the_first_failure_ends_it() {
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
            "component a: the build command `exit 3` failed with exit status: 3"
        );
        assert!(!folder.path().join("later").exists());
    }

    #[tokio::test]
    async fn wrong_names_and_folders_are_named() {
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

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_dropped_build_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let command = "echo $$ > pid.new; mv pid.new pid; exec sleep 600";
        let manifest = manifest(
            folder.path(),
            &[("a", &format!("build.command = {command:?}"))],
        );
        let pid = folder.path().join("pid");
        {
            let building = build(&manifest, None);
            let started = async {
                while !pid.exists() {
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            };
            tokio::select! {
                result = building => panic!("ended early: {result:?}"),
                () = started => {}
            }
        }
        let process = Path::new("/proc").join(fs::read_to_string(&pid).unwrap().trim());
        // Reaping is tokio's, in the background; a process that is left as a zombie was killed.
        let gone = || match fs::read_to_string(process.join("stat")) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        for _ in 0..400 {
            if gone() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("{} still runs", process.display());
    }
}
