//! `symbols`: the binary `ingest` holds nothing that could open an envelope.
//!
//! What a binary is made of is read from its symbol table, so this sees what was linked and not what a manifest says. The
//! same search must find those symbols in `processor`, else it would prove nothing.

use crate::workspace;
use anyhow::{Context, Result, bail};
use std::process::Command;

/// The profile that the tests build: what is linked is the same in each.
pub(crate) const DEV: &str = "dev";
/// What opens envelopes: a name, and its crates as symbols spell them. An optimised AEAD is inlined and leaves only symbols
/// of the ciphers that it is made of, which nothing else uses.
const OPENING: [(&str, &[&str]); 2] = [("the crate open", &["open"]), ("the AEAD", &["aes_gcm", "aes", "polyval"])];

pub(crate) fn run(profile: &str) -> Result<()> {
    let folder = if profile == DEV {
        workspace::build_tested()?;
        "debug"
    } else {
        let mut build = workspace::cargo();
        build.args(["build", "--locked", "--workspace", "--bin", "ingest", "--bin", "processor", "--profile", profile]);
        workspace::run(&mut build)?;
        profile
    };
    let dir = workspace::binaries()?.parent().context("the directory above the binaries")?.join(folder);
    let symbols = |binary: &str| workspace::output(Command::new("nm").arg("-a").arg(dir.join(binary)));
    let (ingest, processor) = (symbols("ingest")?, symbols("processor")?);
    for (what, crates) in OPENING {
        let within =
            |table: &str| crates.iter().flat_map(|name| of_crate(table, name)).map(str::to_owned).collect::<Vec<_>>();
        let control = within(&processor);
        if control.is_empty() {
            bail!("no symbol of {what} in the binary `processor`, which has it: this search is broken");
        }
        if let Some(symbol) = within(&ingest).first() {
            bail!("the binary `ingest` has symbols of {what}, such as {symbol}");
        }
        println!("symbols of {what}: none in ingest, {} in processor ({profile})", control.len());
    }
    Ok(())
}

/// The symbols in `table` (the output of `nm`) that belong to the Rust crate `name` or mention a type of it.
fn of_crate<'a>(table: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let length = name.len();
    // Old mangling: a path begins with its crate; types inside a name are written out with `$` and `..`.
    let path = format!("_ZN{length}{name}");
    let typed = [format!("$LT${name}.."), format!("$u20${name}.."), format!("$RF${name}..")];
    // New mangling: a crate is `C`, a disambiguator `s…_`, and its name.
    let crate_root = format!("_{length}{name}");
    let belongs = move |symbol: &&str| {
        let symbol =
            symbol.strip_prefix('_').filter(|rest| rest.starts_with("_Z") || rest.starts_with("_R")).unwrap_or(symbol);
        if symbol.starts_with("_ZN") {
            return symbol.starts_with(&path) || typed.iter().any(|text| symbol.contains(text.as_str()));
        }
        symbol.starts_with("_R") && symbol.match_indices(&crate_root).any(|(at, _)| is_crate(&symbol[..at]))
    };
    table.lines().filter_map(|line| line.split_whitespace().last()).filter(belongs)
}

/// Whether what stands before `_4name` is the beginning of a crate: `…Cs` and a number in base 62.
fn is_crate(before: &str) -> bool {
    let digits = before.trim_end_matches(|c: char| c.is_ascii_alphanumeric());
    before[digits.len()..].rmatch_indices("Cs").next().is_some()
}

#[cfg(test)]
mod tests {
    use super::of_crate;

    fn found(symbol: &str, name: &str) -> bool {
        of_crate(&format!("0000000000a1b2c3 t {symbol}"), name).next().is_some()
    }

    #[test]
    fn symbols_of_a_crate_are_told_from_names_that_look_alike() {
        for symbol in [
            "_ZN4open4aead3Key3new17h0123456789abcdefE",
            "_ZN4core3ptr36drop_in_place$LT$open..aead..Key$GT$17h0123456789abcdefE",
            "_ZN67_$LT$common..Key$u20$as$u20$open..Opens$GT$4open17h0123456789abcdefE",
            "_RNvMs_NtCs6XgJnPyiZq_4open4aeadNtB4_3Key3new",
            "__RNvMs_NtCs6XgJnPyiZq_4open4aeadNtB4_3Key3new",
        ] {
            assert!(found(symbol, "open"), "{symbol}");
        }
        for symbol in [
            "_ZN3std2fs4File4open17h0123456789abcdefE",
            "_ZN9openssl_sys4open17h0123456789abcdefE",
            "_RNvMNtCs6XgJnPyiZq_3std2fsNtB2_4File4open",
            "_RNvCs6XgJnPyiZq_6common_4open",
            "aws_lc_0_47_0_EVP_aead_aes_256_gcm",
            "open",
            "fopen64",
        ] {
            assert!(!found(symbol, "open"), "{symbol}");
        }
        assert!(found("_RNvXs_Cs1a2B3c_7aes_gcmINtB4_6AesGcm", "aes_gcm"));
        assert!(!found("ossl_prov_aes_hw_gcm", "aes_gcm"));
    }
}
