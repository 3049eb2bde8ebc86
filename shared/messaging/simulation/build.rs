//! Writes the machine's sources, with every mutation of `mutations.rs` built in behind a switch, as one file for
//! `tests/mutants.rs`. Nothing else sees it: the machine's own sources know of no mutation.

use std::path::{Path, PathBuf};
use std::{env, fs};

include!("mutations.rs");

const MACHINE: &str = "../src/machine";

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed={MACHINE}");
    println!("cargo::rerun-if-changed=mutations.rs");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("machine.rs");
    let source = mutated("mod.rs").and_then(|root| inlined(&root));
    // A mutation that fits no more fails the test that includes this, not every build.
    fs::write(out, source.unwrap_or_else(|complaint| format!("compile_error!({complaint:?});")))
}

/// A source with its mutations behind their switches.
fn mutated(file: &str) -> Result<String, String> {
    let path = Path::new(MACHINE).join(file);
    let mut source = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    for (number, mutation) in MUTATIONS.iter().enumerate().filter(|(_, mutation)| mutation.file == file) {
        if source.matches(mutation.from).count() != 1 {
            return Err(format!("the mutation that {} fits no more: see mutations.rs", mutation.name));
        }
        let switch = format!("crate::mutation::is_on({number})");
        source = source.replace(mutation.from, &mutation.to.replace("$ON", &switch));
    }
    Ok(source)
}

/// The module as one text, its submodules inside, its tests left out.
fn inlined(root: &str) -> Result<String, String> {
    let mut source = String::from("#[allow(clippy::all)]\npub mod machine {\n");
    for line in root.lines().filter(|line| *line != "#[cfg(test)]" && *line != "mod tests;") {
        match line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
            Some(name) => {
                let inner = mutated(&format!("{name}.rs"))?;
                source.push_str(&format!("mod {name} {{\n{inner}\n}}\n"));
            }
            None => {
                source.push_str(line);
                source.push('\n');
            }
        }
    }
    source.push_str("}\n");
    Ok(source)
}
