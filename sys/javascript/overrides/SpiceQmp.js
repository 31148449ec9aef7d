// SPDX-License-Identifier: MIT OR Apache-2.0
// SpiceQmp for JavaScript, which GJS loads with the library itself: each `X_async()`
// that is called without a callback returns a promise of what `X_finish()` returns, and
// lists can be iterated over.

const {Gio, GObject} = imports.gi;

// Called by GJS with the namespace as `this`.
var _init = function () {
    this.List.prototype[Symbol.iterator] = function* () {
        for (let i = 0; i < this.get_n_items(); i++)
            yield this.get_item(i);
    };
    for (const key of Object.keys(this)) {
        const type = this[key];
        if (!type.$gtype || !GObject.type_is_a(type, GObject.Object))
            continue;
        for (const target of [type, type.prototype]) {
            for (const name of Object.getOwnPropertyNames(target)) {
                if (name.endsWith('_async'))
                    Gio._promisify(target, name, name.replace(/_async$/, '_finish'));
            }
        }
    }
};
