// SPDX-License-Identifier: MIT OR Apache-2.0
// The promises of the override in sys/javascript, on a real QEMU; run it with with-qemu.

import Gio from 'gi://Gio';
import GLib from 'gi://GLib';
import GObject from 'gi://GObject';
import SpiceQmp from 'gi://SpiceQmp?version=1.0';
import System from 'system';

const TIMEOUT = 40; // seconds

function ok(condition, what) {
    if (!condition)
        throw new Error(`not ${what}`);
}

// Every asynchronous function of every class.
function allArePromises() {
    let count = 0;
    for (const key of Object.keys(SpiceQmp)) {
        const type = SpiceQmp[key];
        if (!type.$gtype || !GObject.type_is_a(type, GObject.Object))
            continue;
        for (const target of [type, type.prototype]) {
            const names = Object.getOwnPropertyNames(target);
            for (const name of names.filter(each => /^(?!_).*_async$/.test(each))) {
                ok(names.includes(`_original_${name}`), `a promise: ${name}`);
                count++;
            }
        }
    }
    ok(count >= 12, `enough of them: ${count}`);
}

// A backup that takes about 6 s, one that fails, and the list of both.
async function jobs(port, machine) {
    const execute = (command, parameters) =>
        port.execute_async(command, JSON.stringify(parameters), null);
    const disk = {driver: 'null-co', size: 64 << 20};
    await execute('blockdev-add', {...disk, 'node-name': 's'});
    await execute('blockdev-add', {...disk, 'node-name': 't'});
    const broken = {event: 'none', iotype: 'write', errno: 5};
    await execute('blockdev-add',
        {driver: 'blkdebug', 'node-name': 'b', image: disk, 'inject-error': [broken]});

    const backup = {device: 's', target: 't', sync: 'full', speed: (64 << 20) / 6 | 0};
    const list = machine.jobs;
    const steps = [];
    const onProgress = job => {
        ok(job instanceof SpiceQmp.Job && job.kind === 'backup', 'a job');
        ok([...list].includes(job), 'the same job');
        steps.push(job.progress);
    };
    ok(await machine.run_job_async('blockdev-backup', JSON.stringify(backup), onProgress, null),
        'a backup');
    print(`# ${steps.length} steps`);
    ok(steps.length >= 10 && steps.at(-1) === 1, `steps: ${steps}`);
    ok(list.get_n_items() === 0, 'forgotten');

    let failure = null;
    try {
        const failing = JSON.stringify({...backup, target: 'b', speed: 0});
        await machine.run_job_async('blockdev-backup', failing, null, null);
    } catch (error) {
        failure = error;
    }
    ok(failure?.message.includes('Input/output error'), `the error: ${failure}`);
}

// A snapshot on a disk that is plugged in, and one that is not there.
async function snapshots(port, machine) {
    const execute = (command, parameters) =>
        port.execute_async(command, JSON.stringify(parameters), null);
    const [file, stream] = Gio.File.new_tmp('snapshots-XXXXXX');
    stream.close(null);
    const path = file.get_path();
    const [, , , code] = GLib.spawn_command_line_sync(`qemu-img create -q -f qcow2 ${path} 1M`);
    ok(code === 0, 'a disk');
    await execute('blockdev-add',
        {driver: 'qcow2', 'node-name': 'n', file: {driver: 'file', filename: path}});
    await execute('device_add', {driver: 'virtio-scsi-pci'});
    await execute('device_add', {driver: 'scsi-hd', id: 'd', drive: 'n'});

    ok(await machine.save_snapshot_async('a', null), 'saved');
    const list = machine.snapshots;
    list.refresh();
    while (list.loading)
        await port.execute_async('query-name', null, null);
    const [snapshot, ...others] = [...list];
    ok(snapshot instanceof SpiceQmp.Snapshot && others.length === 0, 'one');
    ok(snapshot.tag === 'a' && snapshot.loadable && snapshot.state_size > 10000, 'the snapshot');
    ok(Math.abs(snapshot.date - Date.now() / 1000) < 3600, `the date: ${snapshot.date}`);
    ok(await machine.load_snapshot_async('a', null), 'loaded');
    let failure = null;
    try {
        await machine.load_snapshot_async('b', null);
    } catch (error) {
        failure = error;
    }
    ok(failure?.message.includes('there is no snapshot "b"'), `the error: ${failure}`);
    ok(await machine.delete_snapshot_async('a', null), 'deleted');
    ok(list.get_n_items() === 0, 'none');

    ok(await machine.unplug_async('d', 0, null), 'unplugged');
    await execute('blockdev-del', {'node-name': 'n'});
    file.delete(null);
}

async function main() {
    allArePromises();
    const port = await SpiceQmp.Port.open_async(`unix:${GLib.getenv('SPICE_QMP_TEST_SOCKET')}`, null);
    const version = JSON.parse(await port.execute_async('query-version', null, null));
    ok('qemu' in version, 'a version');
    const stopped = port.wait_event_async(['STOP'], 0, null);
    await port.vm_action_async(SpiceQmp.PortVmAction.CONTINUE, null);
    await port.vm_action_async(SpiceQmp.PortVmAction.PAUSE, null);
    ok((await stopped).get_name() === 'STOP', 'the event');

    // A program that makes promises itself, and one with callbacks, work as before.
    Gio._promisify(SpiceQmp.Port.prototype, 'query_status_async', 'query_status_finish');
    ok((await port.query_status_async(null)).status === 'paused', 'paused');
    const result = await new Promise(resolve =>
        port.query_status_async(null, (_port, each) => resolve(each)));
    ok(port.query_status_finish(result).status === 'paused', 'paused');

    const machine = SpiceQmp.Machine.new(port);
    let failure = null;
    try {
        await machine.unplug_async('nothing', 0, null);
    } catch (error) {
        failure = error;
    }
    ok(failure?.matches(SpiceQmp.Error, SpiceQmp.Error.DEVICE_NOT_FOUND), `the error: ${failure}`);

    ok([...machine.drives].length === 0, 'loaded when they are asked for');
    await new Promise(resolve => machine.drives.connect('notify::loading', resolve));
    for (const drive of machine.drives)
        ok(drive.id === 'cd0' && await drive.eject_async(true, null), 'ejected');
    ok([...machine.drives].length === 1, 'one drive');
    await jobs(port, machine);
    await snapshots(port, machine);
    ok(await port.close_async(null), 'closed');
}

const loop = new GLib.MainLoop(null, false);
GLib.timeout_add_seconds(GLib.PRIORITY_DEFAULT, TIMEOUT, () => {
    print(`not ok: no end after ${TIMEOUT} s`);
    System.exit(1);
});
let code = 0;
main()
    .then(() => print('ok'))
    .catch(error => {
        print(`not ok: ${error}\n${error.stack}`);
        code = 1;
    })
    .finally(() => loop.quit());
loop.run();
System.exit(code);
