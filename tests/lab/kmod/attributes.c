// SPDX-License-Identifier: GPL-2.0-only
/*
 * What stands in the files of nvidia/, of an mdev and of a VF alike. The instance
 * is looked up under the board's lock, as that of a VF comes and goes.
 */
#include <linux/kernel.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include "sim.h"

#define NOT_APPLICABLE	"Not Applicable\n"

/* The instance, as far as the resource manager knows it; else NULL. */
static struct sim_instance *known(struct sim_instance **instance)
{
	return *instance && !(*instance)->forgotten ? *instance : NULL;
}

ssize_t sim_params_show(struct sim_board *b, struct sim_instance **instance, char *buf)
{
	ssize_t n;

	mutex_lock(&b->lock);
	n = sim_fault_read(b) ?: -ENXIO;
	if (n != -ENXIO)
		goto out;
	if (known(instance))
		n = sysfs_emit(buf, "%s\n", (*instance)->params);
out:
	mutex_unlock(&b->lock);
	return n;
}

/*
 * As NVIDIA's driver: the last byte of a write is dropped unseen because it is
 * taken to be the newline.
 */
ssize_t sim_params_store(struct sim_board *b, struct sim_instance **instance, const char *buf,
			 size_t count)
{
	struct sim_instance *i;
	ssize_t ret;

	if (sim_fault_store(b, SIM_FAULT_PARAMS, count, &ret))
		return ret;
	if (count > SIM_PARAMS_MAX)
		return -E2BIG;
	mutex_lock(&b->lock);
	i = known(instance);
	ret = count;
	if (!i) {
		ret = -ENXIO;
	} else if (i->open) {
		ret = -EPERM;
	} else if (count) {
		memcpy(i->params, buf, count - 1);
		i->params[count - 1] = '\0';
	}
	mutex_unlock(&b->lock);
	return ret;
}

ssize_t sim_placement_show(struct sim_board *b, struct sim_instance **instance, char *buf)
{
	ssize_t n;

	mutex_lock(&b->lock);
	n = sim_fault_read(b) ?: -ENXIO;
	if (n != -ENXIO)
		goto out;
	if (known(instance) && sim_rm_placement_shown(*instance))
		n = sysfs_emit(buf, "%d\n", (*instance)->placement);
	else if (known(instance))
		n = sysfs_emit(buf, NOT_APPLICABLE);
out:
	mutex_unlock(&b->lock);
	return n;
}

ssize_t sim_gi_show(struct sim_board *b, struct sim_instance **instance, char *buf)
{
	ssize_t n;

	mutex_lock(&b->lock);
	n = sim_fault_read(b) ?: -ENXIO;
	if (n != -ENXIO)
		goto out;
	if (known(instance) && (*instance)->gi >= 0)
		n = sysfs_emit(buf, "%d\n", (*instance)->gi);
	else if (known(instance))
		n = sysfs_emit(buf, NOT_APPLICABLE);
out:
	mutex_unlock(&b->lock);
	return n;
}

static ssize_t id_store(struct sim_board *b, enum sim_fault_op op, struct sim_instance **instance,
			const char *buf, size_t count,
			int (*set)(struct sim_instance *instance, unsigned int id))
{
	unsigned int id = 0;
	ssize_t ret;
	int parsed;

	if (sim_fault_store(b, op, count, &ret))
		return ret;
	parsed = kstrtouint(buf, 10, &id);
	/* Too large is a number like any other that does not exist. */
	if (parsed == -ERANGE)
		id = UINT_MAX;
	mutex_lock(&b->lock);
	if (!known(instance))
		ret = -ENXIO;
	else if (parsed == -EINVAL)
		ret = -EINVAL;
	else if ((*instance)->open)
		ret = -EPERM;
	else
		ret = set(*instance, id) ?: count;
	mutex_unlock(&b->lock);
	return ret;
}

ssize_t sim_placement_store(struct sim_board *b, struct sim_instance **instance, const char *buf,
			    size_t count)
{
	return id_store(b, SIM_FAULT_PLACEMENT, instance, buf, count, sim_rm_set_placement);
}

ssize_t sim_gi_store(struct sim_board *b, struct sim_instance **instance, const char *buf,
		     size_t count)
{
	return id_store(b, SIM_FAULT_GPU_INSTANCE, instance, buf, count, sim_rm_set_gi);
}
