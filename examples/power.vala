// SPDX-License-Identifier: MIT OR Apache-2.0
// The power switch of a virtual machine, over SPICE.
//
//     valac --pkg=spice-qmp-1.0 power.vala
//     ./power spice://HOST:PORT | spice+unix:///PATH [ACTION]

const string USAGE = "usage: power spice://HOST:PORT | spice+unix:///PATH "
    + "[status | pause | resume | reset | powerdown | quit]";

bool find_action (string name, out SpiceQmp.PortVmAction action) {
    action = PAUSE;
    switch (name) {
    case "pause": return true;
    case "resume": action = CONTINUE; return true;
    case "reset": action = RESET; return true;
    case "powerdown": action = POWER_DOWN; return true;
    case "quit": action = QUIT; return true;
    default: return false;
    }
}

async void act (SpiceQmp.Port port, string name) throws Error {
    SpiceQmp.PortVmAction action;
    if (find_action (name, out action)) {
        yield port.vm_action_async (action);
    }
    if (name == "quit") {
        print ("ended\n");
    } else {
        var status = yield port.query_status_async ();
        print ("%s\n", status.status);
    }
}

async void run (Spice.Session session, string name) throws Error {
    var port = yield SpiceQmp.Port.find_async (session);
    // In milliseconds; without it, a call does not end while QEMU does not answer.
    port.command_timeout = 10000;
    try {
        yield act (port, name);
    } finally {
        // First the port: QEMU may crash or freeze if a client leaves while a reply is due.
        try {
            yield port.close_async ();
        } catch (Error error) {
            warning ("%s", error.message);
        }
    }
}

int main (string[] args) {
    var name = args.length > 2 ? args[2] : "status";
    SpiceQmp.PortVmAction action;
    if (args.length < 2 || args.length > 3 || (name != "status" && !find_action (name, out action))) {
        printerr ("%s\n", USAGE);
        return 2;
    }

    var session = new Spice.Session ();
    session.uri = args[1];
    var loop = new MainLoop ();
    var code = 0;
    run.begin (session, name, (_, result) => {
        try {
            run.end (result);
        } catch (Error error) {
            printerr ("power: %s\n", error.message);
            code = 1;
        }
        loop.quit ();
    });
    loop.run ();
    session.disconnect ();
    return code;
}
