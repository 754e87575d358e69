// SPDX-License-Identifier: GPL-2.0-only
/*
 * Boards and their vGPU types. Ids, names and limits follow the tables that
 * NVIDIA publishes for its drivers; ids differ between driver branches, so
 * nothing may depend on them.
 */
#include <linux/kernel.h>
#include <linux/string.h>
#include "sim.h"

static const struct sim_type_info t4_types[] = {
	{ "222", "GRID T4-1B",  4, 45, 1024,  "5120x2880", 16 },
	{ "223", "GRID T4-2B",  4, 45, 2048,  "5120x2880", 8 },
	{ "225", "GRID T4-1A",  1, 60, 1024,  "1280x1024", 16 },
	{ "230", "GRID T4-1Q",  4, 60, 1024,  "5120x2880", 16 },
	{ "231", "GRID T4-2Q",  4, 60, 2048,  "7680x4320", 8 },
	{ "232", "GRID T4-4Q",  4, 60, 4096,  "7680x4320", 4 },
	{ "233", "GRID T4-8Q",  4, 60, 8192,  "7680x4320", 2 },
	{ "234", "GRID T4-16Q", 4, 60, 16384, "7680x4320", 1 },
	{ "319", "GRID T4-4C",  1, 60, 4096,  "4096x2160", 4 },
	{ "320", "GRID T4-8C",  1, 60, 8192,  "4096x2160", 2 },
	{ "321", "GRID T4-16C", 1, 60, 16384, "4096x2160", 1 },
};

static const struct sim_type_info v100_types[] = {
	{ "105", "GRID V100-1Q",  4, 60, 1024,  "5120x2880", 16 },
	{ "106", "GRID V100-2Q",  4, 60, 2048,  "7680x4320", 8 },
	{ "107", "GRID V100-4Q",  4, 60, 4096,  "7680x4320", 4 },
	{ "108", "GRID V100-8Q",  4, 60, 8192,  "7680x4320", 2 },
	{ "109", "GRID V100-16Q", 4, 60, 16384, "7680x4320", 1 },
};

static const struct sim_model models[] = {
	{ "t4", 0x1eb8, 0x12a2, 0xa1, t4_types, ARRAY_SIZE(t4_types) },
	{ "v100", 0x1db4, 0x1214, 0xa1, v100_types, ARRAY_SIZE(v100_types) },
};

const struct sim_model *sim_model_find(const char *name)
{
	unsigned int i;

	BUILD_BUG_ON(ARRAY_SIZE(t4_types) > SIM_MAX_TYPES);
	BUILD_BUG_ON(ARRAY_SIZE(v100_types) > SIM_MAX_TYPES);
	for (i = 0; i < ARRAY_SIZE(models); i++)
		if (!strcmp(models[i].name, name))
			return &models[i];
	return NULL;
}
