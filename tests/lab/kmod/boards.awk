# SPDX-License-Identifier: GPL-2.0-only
# Makes boards.c, the tables of the module, of ../nvidia/boards/*: awk -f boards.awk FILE...
# What the words of a line mean is in ../nvidia/README.md.

BEGIN {
	print "// SPDX-License-Identifier: GPL-2.0-only"
	print "/* Made by boards.awk of the tables in tests/lab/nvidia/boards. */"
	print "#include \"sim.h\"\n"
}

function bad(text) {
	printf "%s:%d: %s\n", FILENAME, FNR, text > "/dev/stderr"
	failed = 1
	exit 1
}

# The words from the nth on, as they stand.
function rest(n,    text, i) {
	text = $n
	for (i = n + 1; i <= NF; i++)
		text = text " " $i
	return text
}

function numbers(n,    text, i) {
	text = $n
	for (i = n + 1; i <= NF; i++)
		text = text ", " $i
	return text
}

function flag(word) { return (model, word) in has ? "true" : "false" }

function open_model(    parts, n) {
	n = split(FILENAME, parts, "/")
	model = parts[n]
	symbol = model
	gsub(/[^a-z0-9]/, "_", symbol)
	models[++nr_models] = model
	mixed = gis = types = ""
	nr_mixed = nr_gis = nr_types = 0
	name = ""
}

function close_model() {
	if (name == "" || !nr_types)
		bad(model " has no name or no types")
	if (nr_mixed)
		printf "static const struct sim_mixed %s_mixed[] = {\n%s};\n\n", symbol, mixed
	if (nr_gis)
		printf "static const struct sim_gi_profile %s_gis[] = {\n%s};\n\n", symbol, gis
	printf "static const struct sim_type_info %s_types[] = {\n%s};\n\n", symbol, types
	entries = entries sprintf("\t{\n\t\t.model = \"%s\", .name = \"%s\",\n", model, name) \
		sprintf("\t\t.device = 0x%s, .subsystem = 0x%s, .revision = 0x%s,\n", \
			ids[2], ids[3], ids[4]) \
		sprintf("\t\t.vfs = %d, .slots = %d,\n", vfs, slots) \
		sprintf("\t\t.mixed_series = %s, .hetero = %s, .homogeneous_placements = %s,\n", \
			flag("mixed-series"), flag("hetero"), flag("homogeneous-placements")) \
		sprintf("\t\t.mig = %s, .mig_reset = %s, .mig_timeslicing = %s, .arr = %s,\n", \
			flag("mig"), flag("mig-reset"), flag("mig-timeslicing"), flag("arr")) \
		(nr_mixed ? sprintf("\t\t.mixed = %s_mixed, .nr_mixed = %d,\n", symbol, nr_mixed) : "") \
		(nr_gis ? sprintf("\t\t.gis = %s_gis, .nr_gis = %d,\n", symbol, nr_gis) : "") \
		sprintf("\t\t.types = %s_types, .nr_types = %d,\n\t},\n", symbol, nr_types)
}

FNR == 1 {
	if (nr_models)
		close_model()
	open_model()
}

/^[ \t]*(#|$)/ { next }

$1 == "name" { name = rest(2); next }
$1 == "device" { for (i = 2; i <= 4; i++) ids[i] = $i; next }
$1 == "memory" { next }
$1 == "vfs" { vfs = $2; next }
$1 == "slots" { slots = $2; next }
$1 == "size" { size[model, $2] = $3; next }
$1 == "has" { for (i = 2; i <= NF; i++) has[model, $i] = 1; next }

$1 == "mixed" {
	printf "static const u8 %s_mixed_%d[] = { %s };\n", symbol, $2, numbers(3)
	mixed = mixed sprintf("\t{ %d, %s_mixed_%d, %d },\n", $2, symbol, $2, NF - 2)
	nr_mixed++
	next
}

# Complete only with the line that says where one may start.
$1 == "gi" {
	gi_of[model, $2] = sprintf("\t{ .id = %d, .mib = %d, .slices = %d, .slots = %d, .max = %d, ", \
		$2, $5, $6, $7, $8)
	next
}

$1 == "gi-at" {
	if (!((model, $2) in gi_of))
		bad("gi-at before its gi")
	printf "static const u8 %s_gi_%d[] = { %s };\n", symbol, $2, numbers(3)
	gis = gis gi_of[model, $2] \
		sprintf(".starts = %s_gi_%d, .nr_starts = %d },\n", symbol, $2, NF - 2)
	nr_gis++
	next
}

$1 == "type" {
	gb = int($3 / 1024)
	occupied = ($5 == "-" && ((model, gb) in size)) ? size[model, gb] : gb
	types = types sprintf("\t{ %d, \"%d\", \"%s\", .fb_mib = %d, .slots = %d, .max_instance = %d,\n" \
		"\t  .gi_profile = %d, .max_per_gi = %d, .heads = %d, .frl = %d, .resolution = \"%s\" },\n", \
		$2, $2, rest(10), $3, occupied, $4, $5 == "-" ? -1 : $5, $6 == "-" ? 0 : $6, $7, $8, $9)
	nr_types++
	next
}

{ bad("unknown word " $1) }

END {
	if (failed)
		exit 1
	close_model()
	printf "const struct sim_model sim_models[] = {\n%s};\n", entries
	print "const unsigned int sim_nr_models = ARRAY_SIZE(sim_models);"
}
