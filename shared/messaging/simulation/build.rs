//! Writes the sources of the machine and of the simulator, with every mutation of `mutations.rs` built in behind a switch,
//! as one file for `tests/mutants.rs`. Nothing else sees it: the sources themselves know of no mutation.

use std::path::{Path, PathBuf};
use std::{env, fs};

include!("mutations.rs");

/// Modules and where their sources are.
const MODULES: [(&str, &str); 2] = [("machine", "../src/machine"), ("sim", "src/sim")];

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=mutations.rs");
    let mut source = String::new();
    for (module, directory) in MODULES {
        println!("cargo::rerun-if-changed={directory}");
        // A mutation that fits no more fails the test that includes this, not every build.
        source += &inlined(module, directory).unwrap_or_else(|complaint| format!("compile_error!({complaint:?});"));
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    fs::write(out.join("mutants.rs"), source)
}

/// A source with its mutations behind their switches.
fn mutated(module: &str, directory: &str, file: &str) -> Result<String, String> {
    let path = Path::new(directory).join(file);
    let mut source = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let file = format!("{module}/{file}");
    for (number, mutation) in MUTATIONS.iter().enumerate().filter(|(_, mutation)| mutation.file == file) {
        if source.matches(mutation.from).count() != 1 {
            return Err(format!("the mutation that {} fits no more: see mutations.rs", mutation.name));
        }
        let switch = format!("crate::mutation::is_on({number})");
        source = source.replace(mutation.from, &mutation.to.replace("$ON", &switch));
    }
    Ok(source)
}

/// A module as one text, its submodules inside, its tests left out.
fn inlined(module: &str, directory: &str) -> Result<String, String> {
    let root = mutated(module, directory, "mod.rs")?;
    let mut source = format!("#[allow(clippy::all)]\npub mod {module} {{\n");
    for line in root.lines().filter(|line| *line != "#[cfg(test)]" && *line != "mod tests;") {
        let (visibility, rest) = line.strip_prefix("pub ").map_or(("", line), |rest| ("pub ", rest));
        match rest.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
            Some(name) => {
                let inner = mutated(module, directory, &format!("{name}.rs"))?;
                source += &format!("{visibility}mod {name} {{\n{inner}\n}}\n");
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
