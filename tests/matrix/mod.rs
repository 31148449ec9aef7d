// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fault matrix: each fault, at each moment of a session, for each way to use a port.
//!
//! It is made from three lists ([`cases`]), played from readable scripts
//! ([`script`], [`player`]) and judged by a table of what the documentation
//! promises ([`expected`]). The [`program`] is a port in this process or a C
//! program, and its connection is any `common::peers::Peer`: all use the same scripts.
//!
//! To play a part of it: `SPICE_QMP_TEST_MATRIX=closing cargo test --test fault_matrix`;
//! the words are parts of the names of moments, faults and uses, and all must match.
#![allow(dead_code, unreachable_pub)]

pub mod cases;
pub mod drive;
pub mod expected;
pub mod player;
pub mod program;
pub mod script;
