// SPDX-License-Identifier: MIT OR Apache-2.0
// A server in place of QEMU, in Vala. It needs no QEMU.

SpiceQmp.Request? kept = null;

bool on_later (SpiceQmp.Request request) {
    kept = request;
    return true;
}

bool on_name (SpiceQmp.Request request) {
    assert (request.get_arguments () == null && !request.is_out_of_band ());
    var name = new Variant.parsed ("{'name': <'vm'>}");
    try {
        return request.reply_variant (name);
    } catch (Error error) {
        assert_not_reached ();
    }
}

void main () {
    const string SENT = """{"execute": "qmp_capabilities"}{"execute": "query-name"}
        {"execute": "later", "id": 7}{"execute": "unknown"}""";
    var input = new MemoryInputStream.from_data (SENT.data);
    var output = new MemoryOutputStream.resizable ();
    var server = new SpiceQmp.Server (new SimpleIOStream (input, output), "10.0.2");
    var ended = false;

    assert (server.version == "10.0.2" && server.capabilities.length == 0);
    server.command["query-name"].connect (on_name);
    server.command["later"].connect (on_later);
    server.command.connect ((request) => {
        if (request.get_command () == "unknown") {
            try {
                assert (kept.get_id () == "7" && kept.reply ());
                assert (server.emit_event ("STOP"));
            } catch (Error error) {
                assert_not_reached ();
            }
            assert (!kept.refuse (null, "again"));
        }
        return false;
    });
    server.notify["close-reason"].connect (() => {
        ended = server.close_reason == "the client closed the connection";
    });
    while (!ended || !output.is_closed ()) {
        MainContext.default ().iteration (true);
    }
    assert (server.negotiated);
    var sent = new StringBuilder ();
    sent.append_len ((string) output.get_data (), (ssize_t) output.get_data_size ());
    var lines = sent.str.split ("\r\n");
    assert (lines[2] == """{"return": {"name":"vm"}}""");
    assert (lines[3] == """{"return": {}, "id": 7}""");
    assert ("\"event\": \"STOP\"" in lines[4] && "CommandNotFound" in lines[5]);
}
