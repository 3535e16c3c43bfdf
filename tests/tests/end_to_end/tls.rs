//! Ingest's TLS as programs see it that share no code with it: sslyze and OpenSSL.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use tests::environment::python_sslyze;
use tests::plan::Plan;
use tests::stack::Stack;
use tokio::process::Command;

fn plan(name: &'static str) -> Plan {
    Plan::new(name).processors(0).source("acme", &["main"]).file("main")
}

/// The port that ingest listens on.
fn port(stack: &Stack) -> Result<u16> {
    stack.url(0, "acme").parse::<url::Url>()?.port().context("the port in the URL")
}

/// Runs a program to its end; whether it ended well, and everything that it printed.
async fn run(program: &Path, arguments: &[&str]) -> Result<(bool, String)> {
    let mut command = Command::new(program);
    // OpenSSL ends when it has nothing more to send.
    let output = command.args(arguments).stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.with_context(|| format!("running {}", program.display()))?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn sslyze_finds_mozillas_intermediate_configuration() -> Result<()> {
    plan("sslyze")
        .run(async |stack| {
            let (python, authority) = (python_sslyze()?, stack.materials().authority().display().to_string());
            let target = format!("localhost:{}", port(stack)?);
            let judge = async |configuration: &str| {
                let configuration = format!("--mozilla_config={configuration}");
                run(&python, &["-m", "sslyze", &configuration, "--certinfo_ca_file", &authority, &target]).await
            };
            let (compliant, text) = judge("intermediate").await?;
            assert!(compliant && text.contains("OK - Compliant"), "{text}");
            // The modern one forbids TLS 1.2: so it does look.
            let (compliant, text) = judge("modern").await?;
            assert!(!compliant && text.contains("FAILED - Not compliant"), "{text}");
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_is_refused_with_old_versions_and_foreign_ciphers() -> Result<()> {
    plan("openssl")
        .run(async |stack| {
            let (target, authority) = (format!("localhost:{}", port(stack)?), stack.materials().authority());
            let authority = authority.display().to_string();
            let connect = async |arguments: &[&str]| {
                let fixed = ["s_client", "-connect", &target, "-CAfile", &authority, "-verify_return_error"];
                run(Path::new("openssl"), &[&fixed[..], arguments].concat()).await
            };
            for arguments in [
                // Without the security level OpenSSL itself would not speak it.
                &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"][..],
                &["-tls1", "-cipher", "ALL:@SECLEVEL=0"],
                &["-tls1_2", "-cipher", "DHE"],
                &["-tls1_2", "-cipher", "kRSA"],
                &["-tls1_2", "-cipher", "ECDHE+SHA:ECDHE+SHA256:ECDHE+SHA384:!AESGCM:!CHACHA20"],
            ] {
                let (connected, text) = connect(arguments).await?;
                assert!(!connected && text.contains("alert"), "{arguments:?}: {text}");
            }
            for (arguments, cipher) in [
                (&["-tls1_2"][..], "ECDHE-ECDSA-AES256-GCM-SHA384"),
                (&["-tls1_2", "-cipher", "DHE:ECDHE-ECDSA-AES128-GCM-SHA256"], "ECDHE-ECDSA-AES128-GCM-SHA256"),
                (&["-tls1_3"], "TLS_AES_256_GCM_SHA384"),
            ] {
                let (connected, text) = connect(arguments).await?;
                assert!(connected && text.contains(&format!("Cipher is {cipher}")), "{arguments:?}: {text}");
            }
            Ok(())
        })
        .await
}
