// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whole QMP sessions, replayed with their bytes split in every way.
//!
//! The format of `tests/fixtures/transcripts/*.qmp` is in `tests/transcript/mod.rs`.

mod transcript;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use transcript::{Buffer, Cut, Transcript};

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
    bad_answers
    bad_input
    cancelling
    closing
    greeting
    human_monitor
    late_attach
    limits
    no_greeting
    oob
    pretty
    replies
    reopening
    settling
}

fn replay(name: &str) {
    let text = fs::read_to_string(Path::new(FOLDER).join(name)).unwrap();
    let transcripts = transcript::read(&text);
    assert!(!transcripts.is_empty(), "{name} has no transcript");
    for transcript in transcripts {
        for (cut, buffer) in ways(&transcript) {
            transcript.replay(name, cut, buffer);
        }
    }
}

/// All ways to split and to buffer. Miri takes a second for each: it gets each split and each
/// buffering once.
fn ways(transcript: &Transcript) -> Vec<(Cut, Buffer)> {
    if cfg!(miri) {
        return vec![
            (Cut::Bytes, Buffer::Never),
            (Cut::Whole, Buffer::First),
            (Cut::Whole, Buffer::Each),
        ];
    }
    let halves = (1..transcript.longest_turn()).map(Cut::At);
    let cuts = [Cut::Whole, Cut::Bytes].into_iter().chain(halves);
    let with_each_buffer =
        |cut| [Buffer::Never, Buffer::First, Buffer::Each].map(|buffer| (cut, buffer));
    cuts.flat_map(with_each_buffer).collect()
}
