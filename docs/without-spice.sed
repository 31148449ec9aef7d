# SPDX-License-Identifier: MIT OR Apache-2.0
# Before links.sed, where the library was built without SPICE: no links to what is not there.
s/\b(spice_qmp_port_(get|find_async|find_finish|ref_channel))\(\)/`\1` (not in this build)/g
s/#SpiceQmpPort:channel\b/`channel`/g
