//! The fuzzer. With the feature `engine` (see `scripts/fuzz`) libFuzzer drives the target that `COPAL_FUZZ_TARGET` names; an ordinary
//! build replays inputs and writes the seeds of the corpus.

#![cfg_attr(feature = "engine", no_main)]

#[cfg(feature = "engine")]
mod engine {
    use std::sync::LazyLock;

    use copal_fuzz::Target;

    static TARGET: LazyLock<&Target> = LazyLock::new(|| {
        let name = std::env::var("COPAL_FUZZ_TARGET").unwrap_or_default();
        copal_fuzz::find(&name)
            .expect("COPAL_FUZZ_TARGET names a target; the directories of the corpus do, too")
    });

    libfuzzer_sys::fuzz_target!(|input: &[u8]| {
        copal_fuzz::run(*TARGET, input);
    });
}

#[cfg(not(feature = "engine"))]
fn main() -> std::io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--write-seeds", ref names @ ..] => replay::write_seeds(names),
        [name, ref files @ ..] if !files.is_empty() => replay::replay(name, files),
        _ => replay::fail("TARGET FILE... to replay inputs, --write-seeds [TARGET...] to make the corpus"),
    }
}

#[cfg(not(feature = "engine"))]
mod replay {
    use std::io;

    pub(super) fn fail<T>(message: &str) -> io::Result<T> {
        Err(io::Error::other(message.to_owned()))
    }

    pub(super) fn replay(name: &str, files: &[&str]) -> io::Result<()> {
        let Some(target) = copal_fuzz::find(name) else { return fail("no such target") };
        for file in files {
            let accepted = copal_fuzz::run(target, &std::fs::read(file)?);
            println!("{file}: {}", if accepted { "accepted" } else { "refused" });
        }
        Ok(())
    }

    /// Replaces the seeds of the targets named, or of all. Other files, such as inputs that once failed, stay.
    pub(super) fn write_seeds(names: &[&str]) -> io::Result<()> {
        for target in copal_fuzz::TARGETS.iter().filter(|t| names.is_empty() || names.contains(&t.name)) {
            let dir = target.corpus();
            std::fs::create_dir_all(&dir)?;
            for (old, _) in target.committed().iter().filter(|(name, _)| name.starts_with("seed-")) {
                std::fs::remove_file(dir.join(old))?;
            }
            for (number, seed) in (target.seeds)().iter().enumerate() {
                std::fs::write(dir.join(format!("seed-{number:02}")), seed)?;
            }
        }
        Ok(())
    }
}
