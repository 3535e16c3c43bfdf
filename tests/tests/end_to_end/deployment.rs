//! What the manifests of `deploy/` configure is what the shipped programs take.

use std::path::Path;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use tests::environment::binary;
use tests::materials::Materials;
use tokio::process::Command;

const CONFIG: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kubernetes/config.yaml"));

/// The file of this name in the manifests' ConfigMaps: the indented lines below its name.
fn mounted(name: &str) -> Result<String> {
    let (_, rest) = CONFIG.split_once(&format!("  {name}: |\n")).with_context(|| format!("there is no {name}"))?;
    let lines = rest.lines().map_while(|line| if line.is_empty() { Some("") } else { line.strip_prefix("    ") });
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// What `--check` of a program says to its file in a folder that is mounted as the manifests say.
async fn checked(program: &str, root: &Path, text: &str) -> Result<Output> {
    let file = root.join(format!("{program}.toml"));
    std::fs::write(&file, text.replace("/etc/sealstream", &root.display().to_string()))?;
    Ok(Command::new(binary(program)?).arg("--config").arg(&file).arg("--check").output().await?)
}

#[tokio::test]
async fn the_configurations_of_the_kubernetes_manifests_are_right() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let root = folder.path();
    let materials = Materials::create(root, ["acme"], ["main"])?;
    std::fs::rename(materials.path("tls/server.pem"), root.join("tls/tls.crt"))?;
    std::fs::rename(materials.path("tls/server.key"), root.join("tls/tls.key"))?;
    std::fs::create_dir(root.join("kafka"))?;
    std::fs::copy(materials.authority(), root.join("kafka/ca.crt"))?;
    std::fs::write(root.join("kafka/password"), "a password of the brokers")?;
    for program in ["ingest", "processor"] {
        let text = mounted(&format!("{program}.toml"))?;
        let output = checked(program, root, &text).await?;
        ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        // It looks at the files, too.
        let output = checked(program, root, &text.replace("edge-1.key", "none.key")).await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(78) && said.contains("none.key"), "{program}: {said}");
    }
    Ok(())
}
