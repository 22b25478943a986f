//! Writes the seeds of a target into a folder, for a fuzzer to begin with: `seed TARGET FOLDER`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [target, folder] = args.as_slice() else {
        eprintln!("usage: seed TARGET FOLDER");
        std::process::exit(2);
    };
    for (name, content) in warren_fuzz::seeds(target) {
        std::fs::write(Path::new(folder).join(format!("seed-{name}")), content)?;
    }
    Ok(())
}
