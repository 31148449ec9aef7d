#!/usr/bin/env -S gjs -m
// SPDX-License-Identifier: MIT OR Apache-2.0
// Prints the events of a virtual machine as lines of JSON, over SPICE, until
// Ctrl+C is pressed or the machine ends.
//
//     events.js spice://HOST:PORT | spice+unix:///PATH [EVENT...]

import GLib from 'gi://GLib';
import SpiceClientGLib from 'gi://SpiceClientGLib?version=2.0';
import SpiceQmp from 'gi://SpiceQmp?version=1.0';
import System from 'system';

const SIGINT = 2;
const SIGTERM = 15;

function show(event) {
    const micros = event.get_timestamp();
    print(JSON.stringify({
        time: micros < 0 ? null : new Date(micros / 1000).toISOString(),
        event: event.get_name(),
        data: JSON.parse(event.get_data() ?? 'null'),
    }));
}

// Resolves on SIGINT and SIGTERM, and when the connection has ended.
function end(port) {
    return new Promise(resolve => {
        for (const signal of [SIGINT, SIGTERM]) {
            GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal, () => {
                resolve();
                return GLib.SOURCE_REMOVE;
            });
        }
        port.connect('notify::ready', () => port.ready || resolve());
    });
}

async function main(uri, names) {
    const session = new SpiceClientGLib.Session({uri});
    try {
        const port = await SpiceQmp.Port.find_async(session, null);
        // In milliseconds; without it, a call does not end while QEMU does not answer.
        port.command_timeout = 10_000;
        const signals = names.length ? names.map(name => `qmp-event::${name}`) : ['qmp-event'];
        for (const signal of signals)
            port.connect(signal, (_port, event) => show(event));
        try {
            const {status} = await port.query_status_async(null);
            printerr(`events: QEMU ${port.version}, ${status}`);
            await end(port);
        } finally {
            // First the port: QEMU may crash or freeze if a client leaves while a reply is due.
            await port.close_async(null);
        }
    } finally {
        session.disconnect();
    }
}

const [uri, ...names] = ARGV;
if (!uri) {
    printerr('usage: events.js spice://HOST:PORT | spice+unix:///PATH [EVENT...]');
    System.exit(2);
}

const loop = new GLib.MainLoop(null, false);
let code = 0;
main(uri, names)
    .catch(error => {
        printerr(`events: ${error.message}`);
        code = 1;
    })
    .finally(() => loop.quit());
loop.run();
System.exit(code);
