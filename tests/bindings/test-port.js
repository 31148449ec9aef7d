// SPDX-License-Identifier: MIT OR Apache-2.0
// All of the library from JavaScript, on a real QEMU; run it with with-qemu.

import Gio from 'gi://Gio';
import GLib from 'gi://GLib';
import SpiceClientGLib from 'gi://SpiceClientGLib?version=2.0';
import SpiceQmp from 'gi://SpiceQmp?version=1.0';
import System from 'system';

for (const call of ['find', 'open'])
    Gio._promisify(SpiceQmp.Port, `${call}_async`, `${call}_finish`);
for (const call of ['close', 'wait_ready', 'query_status', 'vm_action', 'execute', 'execute_full', 'execute_oob', 'execute_variant', 'wait_event', 'wait_status'])
    Gio._promisify(SpiceQmp.Port.prototype, `${call}_async`, `${call}_finish`);

Gio._promisify(SpiceQmp.Machine.prototype, 'unplug_async', 'unplug_finish');
for (const call of ['eject', 'insert'])
    Gio._promisify(SpiceQmp.Drive.prototype, `${call}_async`, `${call}_finish`);

const TIMEOUT = 40; // seconds, for all
const {CONTINUE, PAUSE, RESET} = SpiceQmp.PortVmAction;
const qemuVersion = GLib.getenv('SPICE_QMP_TEST_VERSION');
const qmpSocket = GLib.getenv('SPICE_QMP_TEST_SOCKET');

function executeWithFd(port, command, args, fd) {
    const fds = new Gio.UnixFDList();
    fds.append(fd);
    GLib.close(fd);
    return port.execute_full_async(command, JSON.stringify(args), TIMEOUT * 1000, fds, SpiceQmp.CallFlags.NONE, null);
}

function equal(is, expected) {
    const [left, right] = [is, expected].map(value => JSON.stringify(value));
    if (left !== right)
        throw new Error(`${left} is not ${right}`);
}

function ok(condition, what) {
    if (!condition)
        throw new Error(`not ${what}`);
}

async function fails(promise, domain, code) {
    try {
        await promise;
    } catch (error) {
        ok(error instanceof GLib.Error && error.matches(domain, code), `the right error: ${error}`);
        return error;
    }
    throw new Error('no error came');
}

// Resolves when the condition is met after an emission of the signal, or now.
function until(object, signal, condition) {
    return new Promise(resolve => {
        if (condition()) {
            resolve();
            return;
        }
        const handler = object.connect(signal, () => {
            if (condition()) {
                object.disconnect(handler);
                resolve();
            }
        });
    });
}

function listen(port, signal) {
    const seen = [];
    port.connect(signal, (_port, ...args) => seen.push(args));
    return seen;
}

const overSpice = {
    properties(port) {
        ok(port.ready, 'ready');
        equal(port.state, SpiceQmp.PortState.READY);
        equal(port.version, qemuVersion);
        equal(port.capabilities, []);
        equal(port.pending, 0);
        equal(port.last_error, null);
        equal(port.max_message_size, 64 * 1024 * 1024);
        port.command_timeout = 5000;
        equal(port.commandTimeout, 5000);
        port.command_timeout = 0;
        ok(port.responsive, 'responsive');
    },

    async propertyFunctions(port) {
        await until(port, 'notify::status', () => port.status);
        ok(port.get_ready(), 'ready');
        ok(port.get_responsive(), 'responsive');
        equal(port.get_state(), SpiceQmp.PortState.READY);
        equal(port.get_pending(), 0);
        equal(port.dup_version(), qemuVersion);
        equal(port.dup_package(), port.package);
        equal(port.dup_capabilities(), []);
        equal(port.dup_status().status, port.status.status);
        equal(port.dup_last_error(), null);
        ok(port.ref_channel() === port.channel, 'the same channel');
        for (const [name, value] of Object.entries({command_timeout: 5000, close_timeout: 7000, max_message_size: 2 ** 32})) {
            const old = port[`get_${name}`]();
            port[`set_${name}`](value);
            equal(port[name], value);
            port[name] = old;
            equal(port[`get_${name}`](), old);
        }
    },

    channel(port) {
        ok(port.channel instanceof SpiceClientGLib.PortChannel, 'a channel');
        ok(SpiceQmp.Port.is_qmp_name(port.channel.port_name), 'a QMP name');
        ok(!SpiceQmp.Port.is_qmp_name('org.qemu.monitor.hmp.0'), 'a name of the human monitor');
        ok(SpiceQmp.Port.get(port.channel) === port, 'the same port');
        ok(port instanceof SpiceQmp.Port, 'of our class');
    },

    async statusAndActions(port) {
        const changes = listen(port, 'notify::status');
        ok(await port.vm_action_async(CONTINUE, null), 'resumed');
        const status = await port.query_status_async(null);
        equal([status.version, status.running, status.status], [1, true, 'running']);
        ok(!status.singlestep, 'stepping');
        await until(port, 'notify::status', () => port.status?.running);

        ok(await port.vm_action_async(PAUSE, null), 'paused');
        await until(port, 'notify::status', () => port.status?.status === 'paused');
        ok(changes.length >= 2, 'notified of both changes');
    },

    async events(port) {
        const everything = listen(port, 'qmp-event');
        const resets = listen(port, 'qmp-event::RESET');
        const names = listen(port, 'event');
        const seen = () => everything.map(([event]) => event.get_name());
        await port.vm_action_async(CONTINUE, null);
        await port.vm_action_async(RESET, null);
        await until(port, 'qmp-event', () => resets.length);
        await port.vm_action_async(PAUSE, null);
        await until(port, 'qmp-event', () => seen().includes('STOP'));
        await port.query_status_async(null);

        // The firmware may reset the machine once more.
        const [reset] = resets[0];
        const data = {guest: false, reason: 'host-qmp-system-reset'};
        equal(reset.get_name(), 'RESET');
        equal(JSON.parse(reset.get_data()), data);
        equal(reset.get_data_variant().recursiveUnpack(), data);
        ok(Math.abs(reset.get_timestamp() - GLib.get_real_time()) < 60e6, 'of this minute');

        const [stop] = everything.find(([event]) => event.get_name() === 'STOP');
        equal(stop.get_data(), null);
        equal(stop.get_data_variant(), null);
        equal(names.map(([name]) => name), seen());
    },

    async execute(port) {
        ok('qemu' in JSON.parse(await port.execute_async('query-version', null, null)), 'a version');
        const request = JSON.stringify({path: '/machine', property: 'type'});
        const type = JSON.parse(await port.execute_async('qom-get', request, null));
        ok(/^pc-.*-machine$/.test(type), 'the type of the machine');
    },

    async executeVariant(port) {
        const reply = await port.execute_variant_async('query-version', null, null);
        equal(reply.get_type_string(), 'a{sv}');
        const {major, minor, micro} = reply.recursiveUnpack().qemu;
        equal([major, minor, micro].join('.'), qemuVersion);

        const request = new GLib.Variant('a{ss}', {path: '/machine', property: 'type'});
        const type = await port.execute_variant_async('qom-get', request, null);
        ok(/^pc-.*-machine$/.test(type.unpack()), 'the type of the machine');
        const processors = await port.execute_variant_async('query-cpus-fast', null, null);
        equal(processors.recursiveUnpack().map(cpu => cpu['cpu-index']), [0]);
    },

    async largeReply(port) {
        const text = await port.execute_async('query-qmp-schema', null, null);
        ok(text.length > 131136, 'large');
        const commands = JSON.parse(text).filter(entity => entity['meta-type'] === 'command');
        ok(commands.some(command => command.name === 'query-status'), 'the whole schema');
    },

    async errors(port) {
        const domain = SpiceQmp.Error;
        const error = await fails(port.execute_async('make-coffee', null, null),
            domain, SpiceQmp.Error.COMMAND_NOT_FOUND);
        ok(error.message.includes('make-coffee'), 'named');
        ok(error instanceof SpiceQmp.Error, 'of the class of our errors');
        await fails(port.execute_async('qom-get', '{}', null), domain, SpiceQmp.Error.GENERIC);
        await fails(port.execute_async('device_del', '{"id": "nothing"}', null),
            domain, SpiceQmp.Error.DEVICE_NOT_FOUND);
        await fails(port.execute_async('query-name', 'no JSON', null),
            domain, SpiceQmp.Error.INVALID_ARGUMENT);
        await fails(port.execute_oob_async('migrate-recover', null, null),
            domain, SpiceQmp.Error.NOT_SUPPORTED);
        ok(port.ready, 'ready');
    },

    async cancel(port) {
        const cancellable = new Gio.Cancellable();
        const pending = listen(port, 'notify::pending');
        const call = port.execute_async('query-qmp-schema', null, cancellable);
        cancellable.cancel();
        await fails(call, Gio.IOErrorEnum, Gio.IOErrorEnum.CANCELLED);
        await fails(port.execute_async('query-name', null, cancellable),
            Gio.IOErrorEnum, Gio.IOErrorEnum.CANCELLED);
        equal(await port.execute_async('query-name', null, null), '{}');
        await until(port, 'notify::pending', () => port.pending === 0);
        ok(pending.length, 'notified of calls');
    },
};

const overSocket = {
    async keptEvents() {
        const port = await SpiceQmp.Port.open_async(`unix:${qmpSocket}`, null);
        const describe = event => [event.get_name(), event.get_data(), event.get_timestamp()];
        const kept = [], described = [];
        port.connect('qmp-event', (_port, event) => kept.push(event));
        port.connect('qmp-event', (_port, event) => described.push(describe(event)));
        const calls = [];
        for (let i = 0; i < 50; i++) {
            for (const command of ['cont', 'system_reset', 'stop'])
                calls.push(port.execute_async(command, null, null));
        }
        await Promise.all(calls);
        await until(port, 'qmp-event', () => described.filter(([name]) => name === 'STOP').length === 50);
        System.gc();
        equal(kept.map(describe), described);
        ok(new Set(described.map(([, , timestamp]) => timestamp)).size >= 50, 'of many times');
        ok(await port.close_async(null), 'closed');
    },

    async outOfBand() {
        const port = await SpiceQmp.Port.open_async(`unix:${qmpSocket}`, null);
        equal(port.capabilities, ['oob']);
        equal(port.dup_capabilities(), ['oob']);
        equal(port.channel, null);
        equal(port.ref_channel(), null);
        await fails(port.execute_oob_async('migrate-recover', '{"uri": "unix:/nowhere"}', null),
            SpiceQmp.Error, SpiceQmp.Error.GENERIC);
        ok(await port.close_async(null), 'closed');
    },

    async fileDescriptors() {
        const port = await SpiceQmp.Port.open_async(`unix:${qmpSocket}`, null);
        const [given, empty] = GLib.file_open_tmp('spice-qmp-XXXXXX');
        GLib.unlink(empty);
        equal(await executeWithFd(port, 'getfd', {fdname: 'js'}, given), '{}');
        equal(await port.execute_async('closefd', '{"fdname": "js"}', null), '{}');
        const [disk, path] = GLib.file_open_tmp('spice-qmp-XXXXXX');
        const stream = Gio.File.new_for_path(path).append_to(Gio.FileCreateFlags.NONE, null);
        stream.write_all(new Uint8Array(1 << 20), null);
        stream.close(null);
        const added = await executeWithFd(port, 'add-fd', {'fdset-id': 9}, disk);
        equal(JSON.parse(added)['fdset-id'], 9);
        GLib.unlink(path);
        const node = {driver: 'file', 'node-name': 'js', filename: '/dev/fdset/9'};
        await port.execute_async('blockdev-add', JSON.stringify(node), null);
        const nodes = JSON.parse(await port.execute_async('query-named-block-nodes', null, null));
        equal(nodes.map(one => one.image['virtual-size']), [1 << 20]);
        await port.execute_async('blockdev-del', '{"node-name": "js"}', null);
        await port.execute_async('remove-fd', '{"fdset-id": 9}', null);
        ok(await port.close_async(null), 'closed');
    },

    async stream() {
        const address = Gio.UnixSocketAddress.new(qmpSocket);
        const port = SpiceQmp.Port.new_for_stream(new Gio.SocketClient().connect(address, null));
        ok(!port.ready, 'ready at once');
        equal(port.get_state(), SpiceQmp.PortState.GREETING);
        equal(port.dup_version(), null);
        equal(port.dup_status(), null);
        ok(await port.wait_ready_async(null), 'ready');
        equal(await port.execute_async('query-name', null, null), '{}');
        ok(await port.close_async(null), 'closed');
        await fails(port.execute_async('query-name', null, null),
            SpiceQmp.Error, SpiceQmp.Error.NOT_READY);
    },

    async machine() {
        const port = await SpiceQmp.Port.open_async(`unix:${qmpSocket}`, null);
        const machine = SpiceQmp.Machine.new(port);
        ok(machine.get_port() === port, 'its port');
        ok(machine.list_actions().includes('pause'), 'an action group');
        machine.change_action_state('pause', new GLib.Variant('b', false));
        ok(await port.wait_status_async(['running'], 0, null), 'running');
        equal(machine.get_action_state('pause').unpack(), false);
        ok(machine.get_action_enabled('nmi'), 'enabled');
        const stopped = port.wait_event_async(['STOP'], 0, null);
        machine.activate_action('pause', null);
        equal((await stopped).get_name(), 'STOP');
        ok(await port.wait_status_async(['paused'], 0, null), 'paused');
        ok(!machine.get_action_enabled('nmi'), 'disabled');
        equal(machine.condition, null);
        await fails(machine.unplug_async('nothing', 0, null),
            SpiceQmp.Error, SpiceQmp.Error.DEVICE_NOT_FOUND);
        ok(await port.close_async(null), 'closed');
        equal(machine.dup_condition(), null);

        const address = Gio.UnixSocketAddress.new(qmpSocket);
        const stream = new Gio.SocketClient().connect(address, null);
        const cut = SpiceQmp.Port.new_for_stream(stream);
        ok(await cut.wait_ready_async(null), 'ready');
        const lost = SpiceQmp.Machine.new(cut);
        stream.get_socket().shutdown(true, true);
        await until(lost, 'notify::condition', () => lost.condition);
        const condition = lost.dup_condition();
        equal(condition.get_code(), SpiceQmp.ConditionCode.CONNECTION_LOST);
        equal(condition.get_severity(), SpiceQmp.ConditionSeverity.ERROR);
        equal(condition.get_message(), 'The connection to QEMU has ended');
        equal(condition.get_subject(), null);
        equal(condition.get_detail(), null);
    },

    async drives() {
        const port = await SpiceQmp.Port.open_async(`unix:${qmpSocket}`, null);
        const {drives} = SpiceQmp.Machine.new(port);
        ok(drives instanceof Gio.ListModel, 'a list model');
        equal(drives.get_n_items(), 0);
        await until(drives, 'notify::loading', () => !drives.loading);
        equal(drives.error, null);
        const drive = drives.get_item(0);
        equal([drive.id, drive.name, drive.removable, drive.medium], ['cd0', 'cd', true, null]);
        const media = [];
        drive.connect('notify::medium', () => media.push(drive.medium));
        const [file] = Gio.File.new_tmp('spice-qmp-XXXXXX.iso');
        const path = file.get_path();
        file.replace_contents(new Uint8Array(65536), null, false, Gio.FileCreateFlags.NONE, null);
        ok(await drive.insert_async(path, 'raw', SpiceQmp.InsertFlags.READ_ONLY, null), 'inserted');
        ok(drive.read_only && !drive.tray_open, 'closed');
        await fails(drive.insert_async('/nowhere.iso', null, SpiceQmp.InsertFlags.NONE, null),
            SpiceQmp.Error, SpiceQmp.Error.GENERIC);
        ok(await drive.eject_async(false, null), 'ejected');
        file.delete(null);
        equal(media, [path, null]);
        ok(drives.get_item(0) === drive, 'the same');
        ok(await port.close_async(null), 'closed');
    },

    async refusals() {
        await fails(SpiceQmp.Port.open_async('unix:/nowhere', null),
            Gio.IOErrorEnum, Gio.IOErrorEnum.NOT_FOUND);
        await fails(SpiceQmp.Port.open_async('nonsense', null),
            SpiceQmp.Error, SpiceQmp.Error.INVALID_ARGUMENT);
    },
};

let failures = 0;

async function run(tests, port) {
    for (const [name, test] of Object.entries(tests)) {
        try {
            await test(port);
            print(`ok ${name}`);
        } catch (error) {
            failures++;
            print(`not ok ${name}: ${error}\n${error.stack}`);
        }
    }
}

async function main() {
    const session = new SpiceClientGLib.Session({uri: GLib.getenv('SPICE_QMP_TEST_URI')});
    const port = await SpiceQmp.Port.find_async(session, null);
    await run(overSpice, port);
    await port.close_async(null);
    session.disconnect();
    await run(overSocket, null);
}

const loop = new GLib.MainLoop(null, false);
GLib.timeout_add_seconds(GLib.PRIORITY_DEFAULT, TIMEOUT, () => {
    print(`not ok: no end after ${TIMEOUT} s`);
    System.exit(1);
});
main()
    .catch(error => {
        failures++;
        print(`not ok: ${error}\n${error.stack}`);
    })
    .finally(() => loop.quit());
loop.run();
System.exit(failures ? 1 : 0);
