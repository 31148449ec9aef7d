# SPDX-License-Identifier: MIT OR Apache-2.0
# Makes the header's documentation name the types by their GTypes, as
# introspection does: sed -E -f gtypes.sed spice-qmp.h > copy-to-scan.h
s/^( \* )SpiceQmp([A-Z])/\1SpiceQmp1\2/
s/#SpiceQmp([A-Z])/#SpiceQmp1\1/g
