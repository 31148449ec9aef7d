// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a program receives for replies that are deep, large, or bad.
#![cfg(feature = "gobject")]

mod common;

use common::main_loop::with_own;
use common::script;
use serde_json::value::RawValue;
use spice_qmp::qmp::limits::{MAX_DEPTH, MAX_TREE_SIZE};
use spice_qmp::{Error, PeerError, QmpErrorCode, json_to_variant};

#[test]
fn replies_nest_as_deep_as_qemu_allows() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        for depth in [1, 200, MAX_DEPTH - 1] {
            let value = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
            let call = main.spawn(port.execute::<Box<RawValue>>("deep", ()));
            main.drain();
            let id = server.request("deep").id;
            server.line(&format!("{{\"return\": {value}, \"id\": {id}}}"));
            let reply = main.join("the call", &call).unwrap();
            assert_eq!(reply.get(), value);
        }
        // One more ends this call, and no other.
        let other = main.spawn(port.execute::<Box<RawValue>>("other", ()));
        let call = main.spawn(port.execute::<Box<RawValue>>("deep", ()));
        main.drain();
        let requests = server.requests();
        let id = &requests.iter().find(|it| it.command == "deep").unwrap().id;
        let value = format!("{}1{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
        server.line(&format!("{{\"return\": {value}, \"id\": {id}}}"));
        let error = main.join("the call", &call).unwrap_err();
        assert!(
            matches!(error, Error::Peer(PeerError::Malformed(_))),
            "{error}"
        );
        let other_request = requests.iter().find(|it| it.command == "other").unwrap();
        server.reply(other_request, serde_json::json!({}));
        assert_eq!(main.join("the other", &other).unwrap().get(), "{}");
    });
}

#[test]
fn a_large_reply_is_text_and_no_variant() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let value = format!("[{}0]", "0,".repeat(MAX_TREE_SIZE / 2));
        let call = main.spawn(port.execute::<Box<RawValue>>("large", ()));
        main.drain();
        let id = server.request("large").id;
        server.line(&format!("{{\"return\": {value}, \"id\": {id}}}"));
        let reply = main.join("the call", &call).unwrap();
        assert_eq!(reply.get().len(), value.len());
        let error = glib::Error::from(json_to_variant(reply.get()).unwrap_err());
        assert_eq!(error.kind(), Some(QmpErrorCode::TooLarge));
    });
}
