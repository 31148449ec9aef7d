// SPDX-License-Identifier: MIT OR Apache-2.0
// The library from Vala, on a real QEMU; run it with with-qemu.

const uint TIMEOUT = 40; // seconds, for all

class Case : Object {
    public SpiceQmp.Port port;

    public Case (SpiceQmp.Port port) {
        this.port = port;
    }

    public void property_values () {
        assert (port.ready);
        assert (port.state == READY);
        assert (port.version == Environment.get_variable ("SPICE_QMP_TEST_VERSION"));
        assert (port.capabilities.length == 0);
        assert (port.pending == 0);
        assert (port.last_error == null);
        port.command_timeout = 5000;
        assert (port.command_timeout == 5000);
        port.command_timeout = 0;
        assert (port.responsive);
        assert (SpiceQmp.Port.is_qmp_name (port.channel.port_name));
        assert (SpiceQmp.Port.get (port.channel) == port);
    }

    public void property_functions () {
        assert (port.get_ready () && port.get_responsive ());
        assert (port.get_state () == READY);
        assert (port.get_pending () == 0);
        string? version = port.dup_version ();
        assert (version == port.version);
        string? package = port.dup_package ();
        assert (package == port.package);
        assert (port.dup_capabilities ().length == 0);
        SpiceQmp.Status? status = port.dup_status ();
        assert (status.status == port.status.status);
        Error? last = port.dup_last_error ();
        assert (last == null);
        Spice.PortChannel? channel = port.ref_channel ();
        assert (channel == port.channel);

        var close_timeout = port.get_close_timeout ();
        port.set_close_timeout (7000);
        assert (port.close_timeout == 7000);
        port.close_timeout = close_timeout;
        port.set_command_timeout (5000);
        assert (port.get_command_timeout () == 5000);
        port.set_command_timeout (0);
        port.set_max_message_size (64 << 20);
        assert (port.get_max_message_size () == port.max_message_size);
    }

    // The property follows the events.
    public async void status_is (string expected) {
        SourceFunc resume = status_is.callback;
        var handler = port.notify["status"].connect (() => {
            if (resume != null) {
                Idle.add ((owned) resume);
            }
        });
        if (port.status == null || port.status.status != expected) {
            yield;
        }
        port.disconnect (handler);
        assert (port.status.status == expected);
    }

    public async void status_and_actions () throws Error {
        assert (yield port.vm_action_async (CONTINUE));
        var status = yield port.query_status_async ();
        assert (status.version == 1 && status.running && !status.singlestep);
        assert (status.status == "running");
        assert (yield port.vm_action_async (PAUSE));
        status = yield port.query_status_async ();
        assert (status.status == "paused");
        assert (!status.@ref ().running);
    }

    public async void events () throws Error {
        var names = new GenericArray<string> ();
        SpiceQmp.Event? reset = null;
        ulong[] handlers = {
            port.qmp_event.connect ((event) => names.add (event.get_name ())),
            // The firmware may reset the machine once more.
            port.qmp_event["RESET"].connect ((event) => reset = reset ?? event)
        };
        yield port.vm_action_async (CONTINUE);
        yield port.vm_action_async (RESET);
        yield port.vm_action_async (PAUSE);
        while (!names.find_with_equal_func ("STOP", str_equal)) {
            yield port.query_status_async ();
        }
        foreach (var handler in handlers) {
            port.disconnect (handler);
        }

        assert (reset.get_name () == "RESET");
        assert ("host-qmp-system-reset" in reset.get_data ());
        var reason = reset.get_data_variant ().lookup_value ("reason", VariantType.STRING);
        assert (reason.get_string () == "host-qmp-system-reset");
        assert ((reset.get_timestamp () - get_real_time ()).abs () < 60 * TimeSpan.SECOND);
    }

    public async void execute () throws Error {
        assert ("pc-" in yield port.execute_async ("qom-get", """{"path": "/machine", "property": "type"}"""));
        var arguments = new VariantDict ();
        arguments.insert ("path", "s", "/machine");
        arguments.insert ("property", "s", "type");
        var type = yield port.execute_variant_async ("qom-get", arguments.end ());
        assert (type.get_string ().has_prefix ("pc-"));
        var version = yield port.execute_variant_async ("query-version");
        assert (version.is_of_type (VariantType.VARDICT));
        assert ((yield port.execute_async ("query-qmp-schema")).length > 131136);
    }

    public async void errors () throws Error {
        try {
            yield port.execute_async ("make-coffee");
            assert_not_reached ();
        } catch (SpiceQmp.Error error) {
            assert (error is SpiceQmp.Error.COMMAND_NOT_FOUND);
            assert ("make-coffee" in error.message);
        }
        try {
            yield port.execute_oob_async ("migrate-recover");
            assert_not_reached ();
        } catch (SpiceQmp.Error error) {
            assert (error is SpiceQmp.Error.NOT_SUPPORTED);
        }
        var fds = new UnixFDList ();
        fds.append (0);
        try {
            yield port.execute_full_async ("getfd", "{\"fdname\": \"vala\"}", 0, fds, OUT_OF_BAND);
            assert_not_reached ();
        } catch (SpiceQmp.Error error) {
            assert (error is SpiceQmp.Error.NOT_SUPPORTED);
        }
        var name = yield port.execute_full_async ("query-name");
        assert (name == "{}");
        var cancellable = new Cancellable ();
        Idle.add (() => {
            cancellable.cancel ();
            return Source.REMOVE;
        });
        try {
            yield port.execute_async ("query-qmp-schema", null, cancellable);
            assert_not_reached ();
        } catch (Error error) {
            assert (error is IOError.CANCELLED);
        }
        assert ((yield port.execute_async ("query-name")) == "{}");
    }
}

async void over_spice () throws Error {
    var session = new Spice.Session ();
    session.uri = Environment.get_variable ("SPICE_QMP_TEST_URI");
    var test = new Case (yield SpiceQmp.Port.find_async (session));
    test.property_values ();
    yield test.status_is ("prelaunch");
    test.property_functions ();
    yield test.status_and_actions ();
    yield test.status_is ("paused");
    yield test.events ();
    yield test.execute ();
    yield test.errors ();
    assert (yield test.port.close_async ());
    session.disconnect ();
}

async void over_socket () throws Error {
    var path = Environment.get_variable ("SPICE_QMP_TEST_SOCKET");
    var opened = yield SpiceQmp.Port.open_async (@"unix:$path");
    assert ("oob" in opened.capabilities);
    assert ("oob" in opened.dup_capabilities ());
    assert (opened.ref_channel () == null);
    assert (yield opened.close_async ());

    var stream = yield new SocketClient ().connect_async (new UnixSocketAddress (path));
    var port = new SpiceQmp.Port.for_stream (stream);
    assert (yield port.wait_ready_async ());
    assert (yield port.close_async ());
    try {
        yield port.execute_async ("query-name");
        assert_not_reached ();
    } catch (SpiceQmp.Error error) {
        assert (error is SpiceQmp.Error.NOT_READY);
    }
}

async void with_machine () throws Error {
    var path = Environment.get_variable ("SPICE_QMP_TEST_SOCKET");
    var port = yield SpiceQmp.Port.open_async (@"unix:$path");
    var machine = new SpiceQmp.Machine (port);
    assert (machine.get_port () == port && machine.port == port);
    machine.change_action_state ("pause", false);
    assert (yield port.wait_status_async ({"running"}, 0));
    assert (machine.get_action_enabled ("nmi"));
    machine.activate_action ("pause", null);
    var event = yield port.wait_event_async ({"STOP", "RESUME"}, 0);
    assert (event.get_name () == "STOP");
    assert (yield port.wait_status_async ({"paused"}, 0));
    assert (machine.get_action_state ("pause").get_boolean ());
    SpiceQmp.Condition? none = machine.condition;
    assert (none == null && machine.dup_condition () == null);
    try {
        yield machine.unplug_async ("nothing", 0);
        assert_not_reached ();
    } catch (SpiceQmp.Error error) {
        assert (error is SpiceQmp.Error.DEVICE_NOT_FOUND);
    }
    assert (yield port.close_async ());
}

async void with_drives () throws Error {
    var path = Environment.get_variable ("SPICE_QMP_TEST_SOCKET");
    var port = yield SpiceQmp.Port.open_async (@"unix:$path");
    var machine = new SpiceQmp.Machine (port);
    unowned SpiceQmp.List drives = machine.get_drives ();
    assert (drives == machine.drives && drives.get_item_type () == typeof (SpiceQmp.Drive));
    assert (drives.get_n_items () == 0 && drives.loading);
    drives.notify["loading"].connect (() => with_drives.callback ());
    yield;
    assert (drives.get_n_items () == 1 && drives.error == null);
    var drive = (SpiceQmp.Drive) drives.get_item (0);
    string? medium = drive.medium;
    assert (drive.id == "cd0" && medium == null && drive.dup_medium () == null);
    try {
        yield drive.insert_async ("/nowhere.iso", "raw", SpiceQmp.InsertFlags.READ_ONLY);
        assert_not_reached ();
    } catch (SpiceQmp.Error error) {
        assert (error is SpiceQmp.Error.GENERIC);
    }
    assert (yield drive.eject_async (false));
    assert (drive.tray_open);
    assert (yield port.close_async ());
}

async void with_snapshots () throws Error {
    var path = Environment.get_variable ("SPICE_QMP_TEST_SOCKET");
    var port = yield SpiceQmp.Port.open_async (@"unix:$path");
    var machine = new SpiceQmp.Machine (port);
    unowned SpiceQmp.List snapshots = machine.get_snapshots ();
    assert (snapshots == machine.snapshots);
    assert (snapshots.get_item_type () == typeof (SpiceQmp.Snapshot));
    assert (snapshots.get_item (0) == null);
    try {
        yield machine.load_snapshot_async ("none");
        assert_not_reached ();
    } catch (SpiceQmp.Error error) {
        assert (error is SpiceQmp.Error.GENERIC);
    }
    assert (yield port.close_async ());
}

async void run () throws Error {
    yield over_spice ();
    yield over_socket ();
    yield with_machine ();
    yield with_drives ();
    yield with_snapshots ();
}

int main () {
    var loop = new MainLoop ();
    Timeout.add_seconds (TIMEOUT, () => {
        error ("no end after %u s", TIMEOUT);
    });
    run.begin ((_, result) => {
        try {
            run.end (result);
        } catch (Error failure) {
            error ("%s", failure.message);
        }
        loop.quit ();
    });
    loop.run ();
    return 0;
}
