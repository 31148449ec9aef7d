//! Whole QMP sessions, replayed with their bytes cut in every way.
//!
//! The format of `tests/fixtures/transcripts/*.qmp` is in `tests/transcript/mod.rs`.

mod transcript;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use transcript::{Cut, Stash};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/transcripts");

/// One test for each file.
macro_rules! transcripts {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                replay(concat!(stringify!($name), ".qmp"));
            }
        )*

        #[test]
        fn every_file_has_its_test() {
            let expected = BTreeSet::from([$(concat!(stringify!($name), ".qmp").to_owned()),*]);
            let files = fs::read_dir(FOLDER).unwrap();
            let found = files.map(|file| file.unwrap().file_name().into_string().unwrap());
            assert_eq!(found.collect::<BTreeSet<_>>(), expected);
        }
    };
}

transcripts! {
    bad_input
    cancelling
    closing
    greeting
    human_monitor
    late_attach
    limits
    oob
    pretty
    replies
    reopening
}

fn replay(name: &str) {
    let text = fs::read_to_string(Path::new(FOLDER).join(name)).unwrap();
    let transcripts = transcript::read(&text);
    assert!(!transcripts.is_empty(), "{name} has no transcript");
    for transcript in transcripts {
        for stash in [Stash::Never, Stash::First, Stash::Each] {
            transcript.replay(name, Cut::Whole, stash);
            transcript.replay(name, Cut::Bytes, stash);
            for at in 1..transcript.longest_turn() {
                transcript.replay(name, Cut::At(at), stash);
            }
        }
    }
}
