//! Where Kafka's code comes from: `KAFKA_HOME`, `KAFKA_LIBS`, jars from Maven, or the official image.
//!
//! Each of them ends as a `java` command over a class path, so brokers are configured, formatted, started and stopped in
//! one way.

use crate::workspace;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The version that the tests and the image use.
pub(crate) const VERSION: &str = "4.3.1";
const JAVA_MIN: u32 = 17;
const POM: &str = include_str!("../../kafka/pom.xml");

/// Something that runs Kafka's classes.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Distribution {
    /// A Java of this machine and a directory of jars.
    Jars {
        /// The `java` to run.
        java: PathBuf,
        /// The directory of the jars.
        libs: PathBuf,
    },
    /// The official image, in the network of this machine.
    Image {
        /// `docker` or `podman`.
        engine: String,
    },
}

impl Distribution {
    /// The first of the places that this machine has; jars are fetched by Maven where nothing else is named.
    pub(crate) fn find() -> Result<Self> {
        let named = named_libs()?;
        let java = match java() {
            Ok(java) => java,
            Err(error) => return image().ok_or(error),
        };
        let fetched = workspace::state().join(format!("kafka-libs-{VERSION}"));
        let libs = match named {
            Some(libs) => libs,
            None if fetched.exists() => fetched,
            None if on_path("mvn") => fetch(&fetched)?,
            None => {
                return image().context(
                    "there is no Kafka here: install Maven, or set KAFKA_HOME to a Kafka 4, or KAFKA_BOOTSTRAP to a running broker",
                );
            }
        };
        Ok(Self::Jars { java, libs })
    }

    /// The jars, where this machine has them outside an image.
    pub(crate) fn libs(&self) -> Option<&Path> {
        match self {
            Self::Jars { libs, .. } => Some(libs),
            Self::Image { .. } => None,
        }
    }

    /// `java OPTIONS CLASS`, in `dir`; a container of an image has the name `name`.
    pub(crate) fn command(&self, name: &str, dir: &Path, options: &[&str], class: &str) -> Result<Command> {
        let mut command;
        let jars = match self {
            Self::Jars { java, libs } => {
                command = Command::new(java);
                format!("{}/*", libs.display())
            }
            Self::Image { engine } => {
                command = Command::new(engine);
                let owner = fs::metadata(dir).with_context(|| format!("reading {}", dir.display()))?;
                let user = format!("{}:{}", owner.uid(), owner.gid());
                let volume = format!("{0}:{0}", dir.display());
                command.args([
                    "run",
                    "--rm",
                    "--network",
                    "host",
                    "--name",
                    name,
                    "--user",
                    &user,
                    "--volume",
                    &volume,
                ]);
                command.args(["--entrypoint", "java", &format!("docker.io/apache/kafka:{VERSION}")]);
                "/opt/kafka/libs/*".to_owned()
            }
        };
        command.current_dir(dir).args(options).args(["-cp", &jars, class]);
        Ok(command)
    }

    /// Ends the container `name` at once, if there is one; a broker that is a process of this machine is another matter.
    pub(crate) fn remove_container(&self, name: &str) {
        if let Self::Image { engine } = self {
            let mut remove = Command::new(engine);
            // It fails where there is no such container, and that is well.
            let _ = remove.args(["rm", "--force", name]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

/// The directory of jars that the environment names.
fn named_libs() -> Result<Option<PathBuf>> {
    let libs = match (workspace::setting("KAFKA_HOME"), workspace::setting("KAFKA_LIBS")) {
        (Some(home), _) => PathBuf::from(home).join("libs"),
        (None, Some(libs)) => PathBuf::from(libs),
        (None, None) => return Ok(None),
    };
    let entries =
        fs::read_dir(&libs).with_context(|| format!("KAFKA_HOME or KAFKA_LIBS: reading {}", libs.display()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    if !names.into_iter().any(|name| name.starts_with("kafka_2.13-4") && name.ends_with(".jar")) {
        bail!("KAFKA_HOME or KAFKA_LIBS: {} holds no kafka_2.13-4*.jar", libs.display());
    }
    Ok(Some(libs))
}

fn fetch(libs: &Path) -> Result<PathBuf> {
    eprintln!("x: fetching Kafka {VERSION} by Maven (once)");
    let state = workspace::state();
    let unfinished = state.join(format!("kafka-libs-{VERSION}.{}", std::process::id()));
    fs::create_dir_all(&unfinished)?;
    let pom = unfinished.join("pom.xml");
    fs::write(&pom, POM)?;
    let mut maven = Command::new("mvn");
    maven.args(["-q", "-B", "-Dstyle.color=never", &format!("-Dkafka={VERSION}"), "-f"]).arg(&pom);
    maven.args(["dependency:copy-dependencies", "-DincludeScope=runtime"]);
    maven.arg(format!("-DoutputDirectory={}", unfinished.display()));
    let fetched = workspace::output(&mut maven).and_then(|_| {
        fs::remove_file(&pom)?;
        match fs::rename(&unfinished, libs) {
            Err(_) if libs.exists() => Ok(()), // another run was faster
            done => done.context("keeping the jars"),
        }
    });
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    fetched.map(|()| libs.to_path_buf()).context("fetching Kafka by Maven")
}

fn java() -> Result<PathBuf> {
    let java = match workspace::setting("JAVA_HOME") {
        Some(home) => PathBuf::from(home).join("bin/java"),
        None => PathBuf::from("java"),
    };
    let output = Command::new(&java)
        .arg("-version")
        .output()
        .context("there is no Java here: Kafka needs a JRE of at least 17")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match java_version(&said) {
        Some(version) if version >= JAVA_MIN => Ok(java),
        _ => bail!(
            "Kafka needs Java {JAVA_MIN} or newer, but {} says {}",
            java.display(),
            said.lines().next().unwrap_or("nothing")
        ),
    }
}

/// The feature version in what `java -version` prints: `openjdk version "17.0.15" 2025-04-15`.
fn java_version(said: &str) -> Option<u32> {
    let quoted = said.split('"').nth(1)?;
    quoted.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn image() -> Option<Distribution> {
    let works = |engine: &&str| Command::new(engine).arg("info").output().is_ok_and(|output| output.status.success());
    ["docker", "podman"]
        .iter()
        .find(|engine| works(engine))
        .map(|engine| Distribution::Image { engine: (*engine).to_owned() })
}

fn on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

#[cfg(test)]
mod tests {
    use super::java_version;

    #[test]
    fn the_feature_version_is_read_from_what_java_prints() {
        assert_eq!(java_version("openjdk version \"17.0.15\" 2025-04-15\nOpenJDK Runtime"), Some(17));
        assert_eq!(java_version("openjdk version \"21\" 2023-09-19"), Some(21));
        assert_eq!(java_version("openjdk version \"25-ea\""), Some(25));
        assert_eq!(java_version("java version \"1.8.0_392\""), Some(1));
        assert_eq!(java_version("nothing of the kind"), None);
    }
}
