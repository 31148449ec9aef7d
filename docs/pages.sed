# SPDX-License-Identifier: MIT OR Apache-2.0
# Turns a document of the repository into a page of the API reference.
1s/^# spice-qmp$/# Overview/
1s/^# (.*)/Title: \1\n\n# \1/
s/^```rust,no_run/```rust/
# Links between documents; README.md links to those in docs/.
s/\]\((docs\/)?(viewer|manager)\.png\)/](\2.png)/g
s/\]\((docs\/)?(getting-started|power-menu|machine|transports|threads|errors|tool|porting)\.md(#[a-z-]+)?\)/](\2.html\3)/g
s/\]\(\.\.\/README\.md(#[a-z-]+)?\)/](overview.html\1)/g
s/\]\((\.\.\/)?SECURITY\.md(#[a-z-]+)?\)/](security.html\2)/g
# What is no page is only named.
s/\[([^]]*)\]\((\.\.\/|docs\/)?(examples\/[a-z_.-]+|[A-Za-z-]+\.md|LICENSE-[A-Z0-9a-z.]+)(#[a-z-]+)?\)/\1/g
# Types and functions, but for what stands in a table's shorthand.
s/`SpiceQmp([A-Z][A-Za-z]*)`/[type@\1]/g
s/`(spice_qmp_[a-z_]+)\(\)`/[id@\1]/g
