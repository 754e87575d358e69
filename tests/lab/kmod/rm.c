// SPDX-License-Identifier: GPL-2.0-only
/*
 * The resource manager's vGPUs: which fit, where they go, who has them open.
 * Everything here is called with the board's lock held, unless it says otherwise.
 * The rules are those of tests/lab/nvidia/README.md, by its numbers.
 */
#define pr_fmt(fmt) "[nvidia-vgpu-vfio] " fmt
#include <linux/delay.h>
#include <linux/jiffies.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>
#include "sim.h"

#define MAX_INSTANCES		32
#define MAX_INSTANCES_MIG	48
#define MAX_PER_GI		12
#define FIRST_INSTANCE_ID	3251634176u

static bool mixed_series = true;
module_param(mixed_series, bool, 0444);
MODULE_PARM_DESC(mixed_series,
	"types of one frame buffer size share a GPU (default); N: one type only, as old drivers");

static bool fine_placements;
module_param(fine_placements, bool, 0444);
MODULE_PARM_DESC(fine_placements, "of mixed sizes, any multiple of the size is a placement");

static atomic_t next_id = ATOMIC_INIT(0);

const struct sim_type_info *sim_rm_type(struct sim_board *b, unsigned int id)
{
	unsigned int i;

	for (i = 0; i < b->model->nr_types; i++)
		if (b->model->types[i].id == id)
			return &b->model->types[i];
	return NULL;
}

/* ---- placements ---- */

/* The next multiple of the size that lies within @slots, or -1. */
static int next_multiple(unsigned int size, unsigned int slots, int after)
{
	unsigned int id = after < 0 ? 0 : (after / size + 1) * size;

	return id + size <= slots ? id : -1;
}

/* The part of the slots with places of one size: as many as there may be of the type. */
static unsigned int region(struct sim_board *b, const struct sim_type_info *type)
{
	if (type->max_instance >= MAX_INSTANCES)
		return b->model->slots;
	return min(b->model->slots, type->slots * type->max_instance);
}

/*
 * The type's placement ids in ascending order: the first one greater than @after,
 * or -1. With MIG on these are the GI's, elsewhere @gi is -1.
 */
int sim_rm_placement_next(struct sim_board *b, const struct sim_type_info *type, int gi, int after)
{
	unsigned int size = type->slots, i, j;
	struct sim_gi *in = sim_gi_find(b, gi);

	if (in && b->model->mig_timeslicing && in->profile->id == type->gi_profile)
		return next_multiple(size, in->profile->mib / 1024, after);
	/* A type of a GPU instance has places in one only. */
	if (gi >= 0 || type->gi_profile >= 0)
		return -1;
	if (!b->hetero || fine_placements)
		return next_multiple(size, region(b, type), after);
	for (i = 0; i < b->model->nr_mixed; i++) {
		const struct sim_mixed *m = &b->model->mixed[i];

		for (j = 0; m->size == size && j < m->nr_ids; j++)
			if (m->ids[j] > after)
				return m->ids[j];
	}
	return -1;
}

/* Whether nobody but @own overlaps it. */
bool sim_rm_placement_free(struct sim_board *b, const struct sim_type_info *type, int gi,
			   unsigned int id, const struct sim_instance *own)
{
	const struct sim_instance *i;

	list_for_each_entry(i, &b->instances, node)
		if (i != own && i->gi == gi && i->placement >= 0 &&
		    i->placement < id + type->slots &&
		    id < i->placement + i->type->slots)
			return false;
	return true;
}

static int lowest_placement(struct sim_board *b, const struct sim_type_info *type, int gi,
			    const struct sim_instance *own)
{
	int id = -1;

	while ((id = sim_rm_placement_next(b, type, gi, id)) >= 0)
		if (sim_rm_placement_free(b, type, gi, id, own))
			break;
	return id;
}

/* How many fit beside one another, taking each lowest place that is free. */
static unsigned int free_places(struct sim_board *b, const struct sim_type_info *type, int gi,
				const struct sim_instance *own)
{
	unsigned int n = 0;
	int id = -1, end = 0;

	while ((id = sim_rm_placement_next(b, type, gi, id)) >= 0) {
		if (id < end || !sim_rm_placement_free(b, type, gi, id, own))
			continue;
		end = id + type->slots;
		n++;
	}
	return n;
}

/* Ids are used inside anyway; whether anybody may see and choose them is another question. */
bool sim_rm_placement_shown(const struct sim_instance *i)
{
	const struct sim_board *b = i->board;

	if (i->placement < 0)
		return false;
	return i->gi >= 0 || b->hetero || b->model->homogeneous_placements;
}

/* ---- what fits ---- */

/* Whether all vGPUs in the GI have the type's size. */
static bool gi_of_one_size(struct sim_board *b, int id, const struct sim_type_info *type,
			   const struct sim_instance *own)
{
	const struct sim_instance *i;

	list_for_each_entry(i, &b->instances, node)
		if (i != own && i->gi == id && i->type->fb_mib != type->fb_mib)
			return false;
	return true;
}

/* Rule 6: how many more fit into this GI. */
static unsigned int gi_room(struct sim_board *b, int id, const struct sim_type_info *type,
			    const struct sim_instance *own)
{
	const struct sim_gi *gi = sim_gi_find(b, id);
	unsigned int there = sim_gi_instances(b, id, own);
	unsigned int most = min_t(unsigned int, type->max_per_gi, MAX_PER_GI);

	if (!gi || gi->profile->id != type->gi_profile)
		return 0;
	if (!b->model->mig_timeslicing)
		most = min(most, 1u);
	if (there >= most)
		return 0;
	if (gi->hetero)
		return min(most - there, free_places(b, type, id, own));
	return gi_of_one_size(b, id, type, own) ? most - there : 0;
}

/* Rule 4: the first vGPU decides what else may be there, and all count. */
static bool of_one_size(struct sim_board *b, const struct sim_type_info *type)
{
	bool series = mixed_series && b->model->mixed_series;
	const struct sim_instance *i;

	list_for_each_entry(i, &b->instances, node)
		if (series ? i->type->fb_mib != type->fb_mib : i->type != type)
			return false;
	return true;
}

static unsigned int free_vfs(struct sim_board *b)
{
	unsigned int i, n = 0;

	for (i = 0; i < b->model->vfs; i++)
		n += b->vfs[i].exists && !b->vfs[i].instance;
	return n;
}

/* On the whole GPU where @vf is -1, else on this VF: 1 or 0. */
unsigned int sim_rm_available(struct sim_board *b, const struct sim_type_info *type, int vf)
{
	unsigned int limit = b->mig ? MAX_INSTANCES_MIG : MAX_INSTANCES, n = 0, gi;

	lockdep_assert_held(&b->lock);
	if (!b->bound || !sim_types_loaded() || (type->gi_profile >= 0) != b->mig ||
	    b->nr_instances >= limit)
		return 0;
	limit -= b->nr_instances;
	if (b->model->vfs)
		limit = min(limit, free_vfs(b));
	if (b->mig) {
		for (gi = 0; gi < SIM_MAX_GIS; gi++)
			n += gi_room(b, gi, type, NULL);
	} else if (b->hetero) {
		n = free_places(b, type, -1, NULL);
	} else if (of_one_size(b, type) && b->nr_instances < type->max_instance) {
		n = type->max_instance - b->nr_instances;
	}
	n = min(n, limit);
	if (vf < 0)
		return n;
	return n && b->vfs[vf].exists && !b->vfs[vf].instance;
}

/*
 * What the files of sysfs say of it: in heterogeneous modes they go on counting as if
 * sizes were equal, although more can be made.
 */
unsigned int sim_rm_listed(struct sim_board *b, const struct sim_type_info *type, int vf)
{
	unsigned int n = sim_rm_available(b, type, vf), gi;

	if (!b->mig)
		return b->hetero && b->nr_instances >= type->max_instance ? 0 : n;
	for (gi = 0; gi < SIM_MAX_GIS; gi++)
		if (gi_room(b, gi, type, NULL) && gi_of_one_size(b, gi, type, NULL))
			return n;
	return 0;
}

/* What the RFC driver answers where the resource manager just refuses. */
int sim_rm_refusal(struct sim_board *b, const struct sim_type_info *type)
{
	if (!sim_rfc)
		return -EIO;
	if (!type)
		return -ENODEV;
	return !b->mig && !b->hetero && !of_one_size(b, type) ? -EINVAL : -ENOSPC;
}

/* ---- vGPUs come and go ---- */

/* NULL where it does not fit. */
struct sim_instance *sim_rm_create(struct sim_board *b, const struct sim_type_info *type, int vf,
				   const char *mdev)
{
	struct sim_instance *i;
	unsigned int gi;

	lockdep_assert_held(&b->lock);
	if (!sim_rm_available(b, type, vf))
		return NULL;
	i = kzalloc(sizeof(*i), GFP_KERNEL);
	if (!i)
		return NULL;
	i->board = b;
	i->type = type;
	i->vf = vf;
	i->gi = -1;
	for (gi = 0; b->mig && i->gi < 0; gi++)
		if (gi_room(b, gi, type, NULL))
			i->gi = gi;
	i->placement = lowest_placement(b, type, i->gi, NULL);
	i->id = FIRST_INSTANCE_ID + (unsigned int)atomic_fetch_inc(&next_id);
	if (mdev)
		strscpy(i->mdev, mdev, sizeof(i->mdev));
	list_add_tail(&i->node, &b->instances);
	b->nr_instances++;
	if (vf >= 0)
		b->vfs[vf].instance = i;
	return i;
}

void sim_rm_destroy(struct sim_instance *i)
{
	struct sim_board *b = i->board;

	lockdep_assert_held(&b->lock);
	WARN_ON(i->open);
	if (!i->forgotten) {
		list_del(&i->node);
		b->nr_instances--;
	}
	if (i->vf >= 0)
		b->vfs[i->vf].instance = NULL;
	kfree(i);
}

int sim_rm_set_placement(struct sim_instance *i, unsigned int id)
{
	struct sim_board *b = i->board;
	int known = -1;

	if (b->mig != (i->gi >= 0) || (!b->mig && !b->hetero && !b->model->homogeneous_placements))
		return -EIO;
	while ((known = sim_rm_placement_next(b, i->type, i->gi, known)) >= 0)
		if (known == id)
			break;
	if (known < 0 || !sim_rm_placement_free(b, i->type, i->gi, id, i))
		return -EIO;
	i->placement = id;
	return 0;
}

int sim_rm_set_gi(struct sim_instance *i, unsigned int id)
{
	struct sim_board *b = i->board;

	if (!b->mig || id >= SIM_MAX_GIS || !gi_room(b, id, i->type, i))
		return -EIO;
	if (i->gi != id) {
		i->gi = id;
		i->placement = lowest_placement(b, i->type, id, i);
	}
	return 0;
}

/* ---- opening ---- */

const char *sim_instance_name(const struct sim_instance *i, char *text, size_t size)
{
	if (i->mdev[0])
		strscpy(text, i->mdev, size);
	else
		sim_vf_address(i->board, i->vf, text, size);
	return text;
}

/* A vGPU of a GPU instance needs that one; another with its id and profile will do. */
static bool backed(const struct sim_instance *i)
{
	const struct sim_gi *gi = sim_gi_find(i->board, i->gi);

	return i->type->gi_profile < 0 || (gi && gi->profile->id == i->type->gi_profile);
}

int sim_rm_open(struct sim_instance *i, const struct sim_opener *opener)
{
	struct sim_board *b = i->board;
	char name[UUID_STRING_LEN + 1];

	lockdep_assert_held(&b->lock);
	sim_instance_name(i, name, sizeof(name));
	if (!opener->vm_uuid[0]) {
		pr_err("%s: Failed to get VM UUID from QEMU command-line 0x57\n", name);
		return -EIO;
	}
	if (!sim_manager_runs() || !b->bound || i->forgotten || !backed(i)) {
		pr_err("%s: start failed. status: 0x1\n", name);
		return -EIO;
	}
	i->open = true;
	i->opened = jiffies;
	i->exiting = false;
	i->opener = *opener;
	sim_manager_event("start", name);
	return 0;
}

/* Killed while the plugin came up, a VM leaves its VF in a state that no guest can use. */
void sim_rm_close(struct sim_instance *i, bool killed)
{
	char name[UUID_STRING_LEN + 1];

	lockdep_assert_held(&i->board->lock);
	if (killed && i->vf >= 0 &&
	    time_before(jiffies, i->opened + msecs_to_jiffies(READ_ONCE(sim_init_ms))))
		i->board->vfs[i->vf].wedged = true;
	i->open = false;
	i->exiting = READ_ONCE(sim_plugin_exit_ms) != 0;
	i->exited = jiffies + msecs_to_jiffies(READ_ONCE(sim_plugin_exit_ms));
	memset(&i->opener, 0, sizeof(i->opener));
	i->guest[0] = '\0';
	sim_manager_event("stop", sim_instance_name(i, name, sizeof(name)));
}

bool sim_rm_plugin_exits(struct sim_instance *i)
{
	if (i->exiting && (!READ_ONCE(sim_plugin_exit_ms) || time_after_eq(jiffies, i->exited)))
		i->exiting = false;
	return i->exiting;
}

/* Without the lock; nobody else may take the instance away meanwhile. */
void sim_rm_wait_plugin(struct sim_board *b, struct sim_instance *i)
{
	bool exits;

	for (;;) {
		mutex_lock(&b->lock);
		exits = sim_rm_plugin_exits(i);
		mutex_unlock(&b->lock);
		if (!exits)
			return;
		msleep(20);
	}
}

/* ---- functions appear and disappear; these take the lock ---- */

void sim_rm_vf_added(struct sim_board *b, unsigned int vf)
{
	mutex_lock(&b->lock);
	b->vfs[vf].exists = true;
	b->vfs[vf].was_bound = false;
	b->vfs[vf].wedged = false;
	mutex_unlock(&b->lock);
}

void sim_rm_vf_removed(struct sim_board *b, unsigned int vf)
{
	mutex_lock(&b->lock);
	b->vfs[vf].exists = false;
	b->vfs[vf].wedged = false;
	if (b->vfs[vf].instance)
		sim_rm_destroy(b->vfs[vf].instance);
	mutex_unlock(&b->lock);
}

unsigned int sim_rm_vfs(struct sim_board *b)
{
	unsigned int i, n = 0;

	for (i = 0; i < b->model->vfs; i++)
		n += b->vfs[i].exists;
	return n;
}

/* The resource manager's vGPUs go with the PF; a function that stays still shows its type. */
static void forget_instances(struct sim_board *b)
{
	struct sim_instance *i, *next;

	list_for_each_entry_safe(i, next, &b->instances, node) {
		list_del(&i->node);
		i->forgotten = true;
		i->exiting = false;
		i->gi = -1;
		i->placement = -1;
	}
	b->nr_instances = 0;
}

void sim_rm_set_bound(struct sim_board *b, bool bound)
{
	mutex_lock(&b->lock);
	b->bound = bound;
	b->unbind_lock = false;
	forget_instances(b);
	sim_modes_reset(b);
	if (bound)
		b->mig = b->mig_pending;
	mutex_unlock(&b->lock);
}
