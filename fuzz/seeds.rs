//! Writes good bytes for each target to `corpus/TARGET/`, from which cargo-fuzz goes on.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (number, (target, bytes)) in ringbell::fuzzing::seeds().into_iter().enumerate() {
        let directory = corpus.join(target);
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join(format!("seed-{number}")), bytes)?;
    }
    Ok(())
}
