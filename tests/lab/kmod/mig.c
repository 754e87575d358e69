// SPDX-License-Identifier: GPL-2.0-only
/*
 * GPU instances with their compute instances and schedulers, and the modes of a GPU:
 * MIG, heterogeneous, scheduler. Everything here is called with the board's lock held.
 */
#include <linux/string.h>
#include "sim.h"

/* What nvmlDeviceGetVgpuSchedulerCapabilities says of a board. */
#define POLICY_BEST_EFFORT	1
#define NO_SCHEDULER		((struct sim_scheduler) { .policy = POLICY_BEST_EFFORT })
#define POLICY_FIXED_SHARE	3
#define ARR_ENABLE		2
#define SLICE_MIN_NS		1000000
#define SLICE_MAX_NS		30000000
#define FREQUENCY_MIN		63
#define FREQUENCY_MAX		960
#define FACTOR_MIN		1
#define FACTOR_MAX		60

struct sim_gi *sim_gi_find(struct sim_board *b, int id)
{
	if (id < 0 || id >= SIM_MAX_GIS || !b->gis[id].exists)
		return NULL;
	return &b->gis[id];
}

unsigned int sim_gi_instances(struct sim_board *b, int id, const struct sim_instance *except)
{
	const struct sim_instance *i;
	unsigned int n = 0;

	list_for_each_entry(i, &b->instances, node)
		n += i != except && i->gi == id;
	return n;
}

/* ---- GPU instances ---- */

static bool start_free(struct sim_board *b, unsigned int start, unsigned int slots)
{
	unsigned int i;

	for (i = 0; i < SIM_MAX_GIS; i++) {
		const struct sim_gi *gi = &b->gis[i];

		if (gi->exists && gi->start < start + slots &&
		    start < gi->start + gi->profile->slots)
			return false;
	}
	return true;
}

/* How many of this size the memory of the whole GPU is. */
static unsigned int fraction(struct sim_board *b, const struct sim_gi_profile *p)
{
	unsigned int whole = 0, i;

	for (i = 0; i < b->model->nr_gis; i++)
		whole = max(whole, b->model->gis[i].slots);
	return whole / p->slots;
}

/*
 * Each size of memory has a range of ids: the whole GPU has 0, halves 1 and 2,
 * quarters 3 to 6, eighths 7 to 14. In it the id follows from the start.
 */
static unsigned int gi_id(struct sim_board *b, const struct sim_gi_profile *p, unsigned int start)
{
	return fraction(b, p) - 1 + start / p->slots;
}

/* The free start that the driver takes by itself, or -1: of small ones the last. */
static int gi_start(struct sim_board *b, const struct sim_gi_profile *p)
{
	bool last = fraction(b, p) > 2;
	int chosen = -1;
	unsigned int i;

	for (i = 0; i < p->nr_starts; i++)
		if (start_free(b, p->starts[i], p->slots) && (last || chosen < 0))
			chosen = p->starts[i];
	return chosen;
}

/* The id, or an error. @start is -1 where any will do. */
int sim_gi_create(struct sim_board *b, unsigned int profile, int start)
{
	const struct sim_gi_profile *p = NULL;
	unsigned int i, n = 0, id;
	bool known = start < 0;

	if (!b->mig)
		return -EOPNOTSUPP;
	for (i = 0; i < b->model->nr_gis; i++)
		if (b->model->gis[i].id == profile)
			p = &b->model->gis[i];
	if (!p)
		return -EINVAL;
	for (i = 0; i < p->nr_starts; i++)
		known |= p->starts[i] == start;
	if (!known)
		return -EINVAL;
	if (start < 0)
		start = gi_start(b, p);
	for (i = 0; i < SIM_MAX_GIS; i++)
		n += b->gis[i].exists && b->gis[i].profile == p;
	if (start < 0 || n >= p->max || !start_free(b, start, p->slots))
		return -ENOSPC;
	id = gi_id(b, p, start);
	b->gis[id] = (struct sim_gi) {
		.exists = true, .profile = p, .start = start, .scheduler = NO_SCHEDULER,
	};
	return id;
}

/* A vGPU without a VM does not keep it: it then names an id that may come back for another. */
int sim_gi_destroy(struct sim_board *b, int id)
{
	struct sim_gi *gi = sim_gi_find(b, id);
	const struct sim_instance *instance;
	unsigned int i;

	if (!gi)
		return -ENOENT;
	for (i = 0; i < SIM_MAX_SLICES; i++)
		if (gi->ci[i])
			return -EBUSY;
	list_for_each_entry(instance, &b->instances, node)
		if (instance->gi == id && instance->open)
			return -EBUSY;
	gi->exists = false;
	return 0;
}

int sim_ci_create(struct sim_board *b, int id, unsigned int slices)
{
	struct sim_gi *gi = sim_gi_find(b, id);
	unsigned int i, used = 0;

	if (!gi)
		return -ENOENT;
	if (!slices || slices > gi->profile->slices)
		return -EINVAL;
	for (i = 0; i < SIM_MAX_SLICES; i++)
		used += gi->ci[i];
	if (used + slices > gi->profile->slices)
		return -ENOSPC;
	for (i = 0; gi->ci[i]; i++)
		;
	gi->ci[i] = slices;
	return i;
}

int sim_ci_destroy(struct sim_board *b, int id, unsigned int ci)
{
	struct sim_gi *gi = sim_gi_find(b, id);

	if (!gi || ci >= SIM_MAX_SLICES || !gi->ci[ci])
		return -ENOENT;
	gi->ci[ci] = 0;
	return 0;
}

int sim_gi_set_hetero(struct sim_board *b, int id, bool hetero)
{
	struct sim_gi *gi = sim_gi_find(b, id);

	if (!b->model->mig_timeslicing)
		return -EOPNOTSUPP;
	if (!gi)
		return -ENOENT;
	if (sim_gi_instances(b, id, NULL))
		return -EBUSY;
	gi->hetero = hetero;
	return 0;
}

/* ---- modes ---- */

/*
 * 1 where it has to wait until the GPU is bound again or reset. @others: somebody else
 * has the GPU open.
 */
int sim_mig_set(struct sim_board *b, bool mig, bool others)
{
	bool busy = b->nr_instances || others;
	unsigned int i;

	if (!b->model->mig)
		return -EOPNOTSUPP;
	/* To switch it on needs a reset on some boards, which these prevent as well. */
	if (!mig || b->model->mig_reset) {
		busy |= sim_rm_vfs(b) != 0;
		for (i = 0; i < SIM_MAX_GIS; i++)
			busy |= b->gis[i].exists;
	}
	b->mig_pending = mig;
	sim_scratch_store(b);
	if (b->mig != mig && busy)
		return 1;
	b->mig = mig;
	return 0;
}

/* What nvidia-smi does with --gpu-reset. */
int sim_gpu_reset(struct sim_board *b, bool others)
{
	if (b->nr_instances || others || sim_rm_vfs(b))
		return -EBUSY;
	sim_modes_reset(b);
	b->mig = b->mig_pending;
	return 0;
}

int sim_hetero_set(struct sim_board *b, bool hetero)
{
	if (!b->model->hetero || b->mig)
		return -EOPNOTSUPP;
	if (b->nr_instances)
		return -EBUSY;
	b->hetero = hetero;
	return 0;
}

/* 0 stands for the default. */
static bool within(unsigned int value, unsigned int min, unsigned int max)
{
	return !value || (value >= min && value <= max);
}

static bool scheduler_possible(struct sim_board *b, const struct sim_scheduler *s, bool hetero)
{
	return s->policy >= POLICY_BEST_EFFORT && s->policy <= POLICY_FIXED_SHARE &&
	       (s->arr < ARR_ENABLE || (s->arr == ARR_ENABLE && b->model->arr)) &&
	       within(s->factor, FACTOR_MIN, FACTOR_MAX) &&
	       within(s->frequency, FREQUENCY_MIN, FREQUENCY_MAX) &&
	       within(s->slice_ns, SLICE_MIN_NS, SLICE_MAX_NS) &&
	       !(s->policy == POLICY_FIXED_SHARE && hetero);
}

int sim_scheduler_set(struct sim_board *b, const struct sim_scheduler *s)
{
	if (b->mig || b->nr_instances)
		return -EOPNOTSUPP;
	if (!scheduler_possible(b, s, b->hetero))
		return -EINVAL;
	b->scheduler = *s;
	return 0;
}

int sim_gi_scheduler_set(struct sim_board *b, int id, const struct sim_scheduler *s)
{
	struct sim_gi *gi = sim_gi_find(b, id);

	if (!b->model->mig_timeslicing)
		return -EOPNOTSUPP;
	if (!gi)
		return -ENOENT;
	if (sim_gi_instances(b, id, NULL))
		return -EOPNOTSUPP;
	if (!scheduler_possible(b, s, gi->hetero))
		return -EINVAL;
	gi->scheduler = *s;
	return 0;
}

/* What does not outlive the driver. */
void sim_modes_reset(struct sim_board *b)
{
	memset(b->gis, 0, sizeof(b->gis));
	b->hetero = false;
	b->scheduler = NO_SCHEDULER;
}
