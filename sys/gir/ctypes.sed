# Gives the types of a scanned GIR their names in C, where the scanner knows only
# the names of their GTypes. The first prefix becomes the namespace in Vala.
s/c:type="(const )?SpiceQmp1/c:type="\1SpiceQmp/g
s/c:identifier-prefixes="SpiceQmp1"/c:identifier-prefixes="SpiceQmp,SpiceQmp1"/
s/#SpiceQmp1/#SpiceQmp/g
