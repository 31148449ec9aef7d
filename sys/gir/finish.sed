# SPDX-License-Identifier: MIT OR Apache-2.0
# Completes the GIR that the scanner wrote.

# The types' names in C: the scanner only knows the names of their GTypes. The first
# prefix becomes the namespace in Vala.
s/c:type="(const )?SpiceQmp1/c:type="\1SpiceQmp/g
s/c:identifier-prefixes="SpiceQmp1"/c:identifier-prefixes="SpiceQmp,SpiceQmp1"/
s/#SpiceQmp1/#SpiceQmp/g
s/\bSpiceQmp1([A-Z][A-Za-z]*) \*/SpiceQmp\1 */g

# The private field of SpiceQmpStatus: GJS can have no field with a method's name.
s/<field name="ref"/<field name="ref_count"/

# Macros for the header's own use.
/<function-macro name="DEPRECATED_FOR"/,/<\/function-macro>/d
