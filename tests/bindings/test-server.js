// SPDX-License-Identifier: MIT OR Apache-2.0
// A server in place of QEMU, in JavaScript: gjs -m test-server.js. It needs no QEMU.
import Gio from 'gi://Gio';
import GLib from 'gi://GLib';
import SpiceQmp from 'gi://SpiceQmp?version=1.0';
import System from 'system';

function assertEqual(found, expected) {
    const [a, b] = [JSON.stringify(found), JSON.stringify(expected)];
    if (a !== b)
        throw new Error(`found ${a} in place of ${b}`);
}

// Runs the main loop until the condition holds.
function waitFor(condition, what) {
    const context = GLib.MainContext.default();
    let late = false;
    const timer = GLib.timeout_add_seconds(GLib.PRIORITY_DEFAULT, 20, () => {
        late = true;
        return GLib.SOURCE_CONTINUE;
    });
    while (!condition()) {
        if (late)
            throw new Error(`waited in vain for ${what}`);
        context.iteration(true);
    }
    GLib.source_remove(timer);
}

const sent = '{"execute": "qmp_capabilities"}{"execute": "query-name", "id": 1}' +
    '{"execute": "echo", "arguments": {"a": [1]}}{"execute": "later"}{"execute": "refuse"}' +
    '{"execute": "unknown"}';
const output = Gio.MemoryOutputStream.new_resizable();
const input = Gio.MemoryInputStream.new_from_bytes(new GLib.Bytes(new TextEncoder().encode(sent)));
const server = SpiceQmp.Server.new(Gio.SimpleIOStream.new(input, output), '10.0.2', ['oob']);
const commands = [];
let kept = null;
server.connect('command', (_server, request) => {
    commands.push(request.get_command());
    return false;
});
server.connect('command::query-name', (_server, request) =>
    request.reply_variant(new GLib.Variant('a{sv}', {name: new GLib.Variant('s', 'vm')})));
server.connect('command::echo', (_server, request) => {
    assertEqual(request.get_arguments_variant().recursiveUnpack(), {a: [1]});
    return request.reply(request.get_arguments());
});
server.connect('command::later', (_server, request) => {
    kept = request;
    return true;
});
server.connect('command::refuse', (_server, request) => request.refuse('DeviceNotFound', 'no'));
assertEqual([server.version, server.capabilities, server.close_reason], ['10.0.2', ['oob'], null]);
let again = null;
server.connect('command::unknown', () => {
    kept.reply('7');
    try {
        kept.reply('8');
    } catch (error) {
        again = error;
    }
    return false;
});
waitFor(() => server.close_reason !== null && output.is_closed(), 'the end');
assertEqual(again.matches(SpiceQmp.error_quark(), SpiceQmp.Error.INVALID_ARGUMENT), true);
assertEqual(commands, ['query-name', 'echo', 'later', 'refuse', 'unknown']);
const lines = new TextDecoder().decode(output.steal_as_bytes().get_data()).trim().split('\r\n');
const answers = lines.slice(2).map(line => JSON.parse(line));
assertEqual(answers.slice(0, 3), [{return: {name: 'vm'}, id: 1}, {return: {a: [1]}}, {return: 7}]);
assertEqual(answers.slice(3).map(answer => answer.error.class), ['DeviceNotFound', 'CommandNotFound']);
kept = null;
System.gc();
