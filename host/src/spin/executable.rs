//! Finds the executable of Spin.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{Access, access};

use crate::options::SpinOptions;

/// The environment variable that names the executable. Spin sets it for its plugins.
const EXECUTABLE_VARIABLE: &str = "SPIN_BIN_PATH";

/// Returns the options that start the Spin of this machine: the executable that `SPIN_BIN_PATH`
/// names, or else `spin` in `PATH`. The supervisor is the current executable. `arguments` are
/// further ones of Spin.
///
/// # Errors
/// Fails if there is no such executable.
pub(crate) fn find(build: bool, arguments: Vec<OsString>) -> Result<SpinOptions> {
    Ok(SpinOptions {
        executable: find_executable(|name| std::env::var_os(name))?,
        supervisor: std::env::current_exe().context("cannot find the path of this program")?,
        build,
        arguments,
    })
}

fn find_executable<T: AsRef<OsStr>>(environment: impl Fn(&str) -> Option<T>) -> Result<PathBuf> {
    let install = "install Spin (https://spinframework.dev/install), or leave out --spin";
    let named = environment(EXECUTABLE_VARIABLE);
    if let Some(path) = named.as_ref().map(AsRef::as_ref)
        && !path.is_empty()
    {
        let path = Path::new(path);
        if !is_executable(path) {
            bail!(
                "{EXECUTABLE_VARIABLE} names {}, which is not an executable file: \
                 correct or unset it, or {install}",
                path.display()
            );
        }
        // A relative path would be searched for in `PATH`.
        return std::path::absolute(path).context(EXECUTABLE_VARIABLE);
    }
    let folders = environment("PATH");
    let folders = folders.as_ref().map(AsRef::as_ref).unwrap_or_default();
    std::env::split_paths(folders)
        .filter_map(|folder| std::path::absolute(folder.join("spin")).ok())
        .find(|path| is_executable(path))
        .with_context(|| {
            format!(
                "cannot find the executable `spin` for --spin: it is not in PATH, \
                 and {EXECUTABLE_VARIABLE} is not set; {install}"
            )
        })
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn the_variable_takes_precedence_over_path() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, mode| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        // Neither a plain file nor a folder is an executable.
        file("plain/spin", 0o644);
        fs::create_dir_all(folder.path().join("folder/spin")).unwrap();
        let (first, second) = (file("first/spin", 0o755), file("second/spin", 0o755));
        let named = file("elsewhere/spin-4", 0o755);
        let path = ["plain", "folder", "missing", "first", "second"];
        let path = path.map(|name| folder.path().join(name));
        let path = std::env::join_paths(path).unwrap();

        let find = |variable: Option<&Path>, path: Option<&OsStr>| {
            find_executable(|name| match name {
                EXECUTABLE_VARIABLE => variable.map(|path| path.as_os_str().to_owned()),
                "PATH" => path.map(OsStr::to_owned),
                _ => None,
            })
        };
        assert_eq!(find(Some(&named), Some(&path)).unwrap(), named);
        assert_eq!(find(None, Some(&path)).unwrap(), first);
        assert_eq!(find(Some(Path::new("")), Some(&path)).unwrap(), first);
        assert_eq!(find(Some(&second), None).unwrap(), second);
        for (variable, path) in [
            (None, None),
            (None, Some(folder.path().as_os_str())),
            (Some(folder.path().join("nothing")), Some(path.as_os_str())),
        ] {
            let error = find(variable.as_deref(), path).unwrap_err().to_string();
            assert!(
                error.contains("https://spinframework.dev/install"),
                "{error}"
            );
            assert!(error.contains("SPIN_BIN_PATH"), "{error}");
        }
    }
}
