// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/nvidiactl, what libnvidia-ml.so.1 speaks, and /proc/driver/nvidia. A write
 * is one command, its errno the status; reads then give the answer's text.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include "sim.h"

#define COMMAND_MAX	256
#define WORDS_MAX	8
#define ANSWER_MAX	32768

static atomic_t openers = ATOMIC_INIT(0);
static struct proc_dir_entry *proc_root, *proc_gpus;

/* One open file. */
struct client {
	struct mutex lock;
	size_t length;
	char answer[ANSWER_MAX];
};

/* What a command is given: its GPU, the numbers after the address, where to answer. */
struct command {
	struct client *client;
	struct sim_board *board;
	unsigned int number[WORDS_MAX];
	unsigned int nr;
};

static __printf(2, 3) void say(struct client *c, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	c->length += vscnprintf(c->answer + c->length, sizeof(c->answer) - c->length, format, args);
	va_end(args);
}

/* ---- questions; all with the board's lock held ---- */

static void say_id(struct client *c, int id)
{
	if (id < 0)
		say(c, " -");
	else
		say(c, " %d", id);
}

static const char *or_dash(const char *text)
{
	return text[0] ? text : "-";
}

static void say_instance(struct client *c, const struct sim_instance *i)
{
	char where[16];

	if (i->vf >= 0)
		sim_vf_address(i->board, i->vf, where, sizeof(where));
	else
		strscpy(where, i->board->address, sizeof(where));
	say(c, "vgpu %u %u", i->id, i->type->id);
	say_id(c, sim_rm_placement_shown(i) ? i->placement : -1);
	say_id(c, i->gi);
	say(c, " %s %s", where, or_dash(i->mdev));
	say_id(c, i->open ? i->opener.pid : -1);
	say(c, " %s %s\n", or_dash(i->opener.vm_uuid), or_dash(i->opener.vm_name));
	if (i->open && i->guest[0])
		say(c, "guest %u %s\n", i->id, i->guest);
}

static void say_scheduler(struct client *c, unsigned int gi, const struct sim_scheduler *s)
{
	say(c, "gi-scheduler %u %u %u %u %u %u\n", gi, s->policy, s->arr, s->factor, s->frequency,
	    s->slice_ns);
}

static int answer_gpu(struct command *cmd)
{
	struct sim_board *b = cmd->board;
	const struct sim_scheduler *s = &b->scheduler;
	struct client *c = cmd->client;
	const struct sim_instance *instance;
	unsigned int i, j;

	say(c, "model %s\n", b->model->model);
	say(c, "framework %s\n", !b->model->vfs ? "legacy-mdev" :
	    sim_vendor_vfio ? "vendor-vfio" : "sriov-mdev");
	say(c, "node %d\n", b->node);
	say(c, "vfs %u\n", sim_rm_vfs(b));
	say(c, "loaded %d\n", sim_types_loaded());
	say(c, "mig %d %d\n", b->mig, b->mig_pending);
	say(c, "hetero %d\n", b->hetero);
	say(c, "scheduler %u %u %u %u %u\n", s->policy, s->arr, s->factor, s->frequency,
	    s->slice_ns);
	for (i = 0; i < SIM_MAX_GIS; i++) {
		const struct sim_gi *gi = &b->gis[i];

		if (gi->exists)
			say(c, "gi %u %u %u %u %d\n", i, gi->profile->id, gi->start,
			    gi->profile->slots, gi->hetero);
	}
	for (i = 0; i < SIM_MAX_GIS; i++)
		if (b->gis[i].exists && b->model->mig_timeslicing)
			say_scheduler(c, i, &b->gis[i].scheduler);
	for (i = 0; i < SIM_MAX_GIS; i++)
		for (j = 0; b->gis[i].exists && j < SIM_MAX_SLICES; j++)
			if (b->gis[i].ci[j])
				say(c, "ci %u %u %u\n", i, j, b->gis[i].ci[j]);
	list_for_each_entry(instance, &b->instances, node)
		say_instance(c, instance);
	for (i = 0; i < b->model->vfs; i++) {
		char where[16];

		instance = b->vfs[i].instance;
		if (!instance || !instance->forgotten)
			continue;
		sim_vf_address(b, i, where, sizeof(where));
		say(c, "forgotten %u %s %s\n", instance->type->id, where, or_dash(instance->mdev));
	}
	return 0;
}

static int answer_creatable(struct command *cmd)
{
	struct sim_board *b = cmd->board;
	unsigned int i, n;

	for (i = 0; i < b->model->nr_types; i++) {
		n = sim_rm_available(b, &b->model->types[i], -1);
		if (n)
			say(cmd->client, "%u %u\n", b->model->types[i].id, n);
	}
	return 0;
}

static int placements(struct command *cmd, int gi, unsigned int id)
{
	const struct sim_type_info *type = sim_rm_type(cmd->board, id);
	int place = -1;

	if (!type)
		return -EINVAL;
	while ((place = sim_rm_placement_next(cmd->board, type, gi, place)) >= 0)
		if (sim_rm_placement_free(cmd->board, type, gi, place, NULL))
			say(cmd->client, "%d\n", place);
	return 0;
}

static int answer_placements(struct command *cmd)
{
	return cmd->board->mig ? -EOPNOTSUPP : placements(cmd, -1, cmd->number[0]);
}

static int answer_gi_placements(struct command *cmd)
{
	int gi = min_t(unsigned int, cmd->number[0], INT_MAX);

	return sim_gi_find(cmd->board, gi) ? placements(cmd, gi, cmd->number[1]) : -ENOENT;
}

/* ---- changes; also with the lock held ---- */

static int say_number(struct command *cmd, int result)
{
	if (result < 0)
		return result;
	say(cmd->client, "%d\n", result);
	return 0;
}

static int gi_of(struct command *cmd)
{
	return min_t(unsigned int, cmd->number[0], INT_MAX);
}

static int change_hetero(struct command *cmd)
{
	if (cmd->number[0] > 1)
		return -EINVAL;
	return sim_hetero_set(cmd->board, cmd->number[0]);
}

static int change_gi_hetero(struct command *cmd)
{
	if (cmd->number[1] > 1)
		return -EINVAL;
	return sim_gi_set_hetero(cmd->board, gi_of(cmd), cmd->number[1]);
}

/* Besides the caller. */
static bool others_have_it_open(void)
{
	return atomic_read(&openers) > 1;
}

/* 19 is NVML_ERROR_IN_USE, which the activation then has. */
static int change_mig(struct command *cmd)
{
	int ret;

	if (cmd->number[0] > 1)
		return -EINVAL;
	ret = sim_mig_set(cmd->board, cmd->number[0], others_have_it_open());
	return say_number(cmd, ret > 0 ? 19 : ret);
}

static int change_reset(struct command *cmd)
{
	return sim_gpu_reset(cmd->board, others_have_it_open());
}

static int change_gi_create(struct command *cmd)
{
	int start = cmd->nr > 1 ? min_t(unsigned int, cmd->number[1], INT_MAX) : -1;

	return say_number(cmd, sim_gi_create(cmd->board, cmd->number[0], start));
}

static int change_gi_destroy(struct command *cmd)
{
	return sim_gi_destroy(cmd->board, gi_of(cmd));
}

static int change_ci_create(struct command *cmd)
{
	return say_number(cmd, sim_ci_create(cmd->board, gi_of(cmd), cmd->number[1]));
}

static int change_ci_destroy(struct command *cmd)
{
	return sim_ci_destroy(cmd->board, gi_of(cmd), cmd->number[1]);
}

static struct sim_scheduler scheduler_of(const unsigned int *n)
{
	return (struct sim_scheduler) {
		.policy = n[0], .arr = n[1], .factor = n[2], .frequency = n[3], .slice_ns = n[4],
	};
}

static int change_scheduler(struct command *cmd)
{
	struct sim_scheduler wanted = scheduler_of(cmd->number);

	return sim_scheduler_set(cmd->board, &wanted);
}

static int change_gi_scheduler(struct command *cmd)
{
	struct sim_scheduler wanted = scheduler_of(cmd->number + 1);

	return sim_gi_scheduler_set(cmd->board, gi_of(cmd), &wanted);
}

static const struct verb {
	const char *name;
	unsigned int min, max;	/* how many numbers follow the address */
	bool changes;
	int (*run)(struct command *cmd);
	enum sim_fault_op fault;	/* of a change */
} verbs[] = {
	{ "gpu", 0, 0, false, answer_gpu },
	{ "creatable", 0, 0, false, answer_creatable },
	{ "placements", 1, 1, false, answer_placements },
	{ "gi-placements", 2, 2, false, answer_gi_placements },
	{ "hetero", 1, 1, true, change_hetero, SIM_FAULT_HETERO },
	{ "gi-hetero", 2, 2, true, change_gi_hetero, SIM_FAULT_GI_HETERO },
	{ "mig", 1, 1, true, change_mig, SIM_FAULT_MIG },
	{ "gi-create", 1, 2, true, change_gi_create, SIM_FAULT_GI_CREATE },
	{ "gi-destroy", 1, 1, true, change_gi_destroy, SIM_FAULT_GI_DESTROY },
	{ "ci-create", 2, 2, true, change_ci_create, SIM_FAULT_CI_CREATE },
	{ "ci-destroy", 2, 2, true, change_ci_destroy, SIM_FAULT_CI_DESTROY },
	{ "scheduler", 5, 5, true, change_scheduler, SIM_FAULT_SCHEDULER },
	{ "gi-scheduler", 6, 6, true, change_gi_scheduler, SIM_FAULT_GI_SCHEDULER },
	{ "reset", 0, 0, true, change_reset, SIM_FAULT_GPU_RESET },
};

/* ---- the device ---- */

/* By address, whatever the order of the parameter. */
static void answer_gpus(struct client *c)
{
	const char *last = "";
	struct sim_board *b, *next;
	unsigned int i;

	for (;;) {
		next = NULL;
		for (i = 0; (b = sim_board_get(i)) != NULL; i++)
			if (strcmp(b->address, last) > 0 &&
			    (!next || strcmp(b->address, next->address) < 0))
				next = b;
		if (!next)
			return;
		last = next->address;
		if (READ_ONCE(next->bound))
			say(c, "%s %s\n", next->address, next->model->model);
	}
}

/* Whether the command is to act, after what has been asked to go wrong. */
static bool act(struct sim_board *b, enum sim_fault_op op, int *ret)
{
	int number;

	*ret = 0;
	sim_fault_delay(b, op);
	if (!sim_fault_take(b, op, &number))
		return true;
	*ret = -number;
	return false;
}

static int run_verb(const struct verb *verb, struct command *cmd)
{
	struct sim_board *b = cmd->board;
	int ret;

	if (!b)
		return -ENOENT;
	if (!act(b, SIM_FAULT_NVML, &ret) || (verb->changes && !act(b, verb->fault, &ret)))
		return ret;
	mutex_lock(&b->lock);
	if (!b->bound)
		ret = -ENOENT;
	else if (b->lost)
		ret = -ENODEV;
	else
		ret = verb->run(cmd);
	mutex_unlock(&b->lock);
	return ret;
}

static int run(struct client *c, char *text)
{
	struct command cmd = { .client = c };
	const struct verb *verb;
	char *name, *address, *word;
	unsigned int i;
	int ret;

	text = strim(text);
	name = strsep(&text, " ");
	address = strsep(&text, " ");
	if (!strcmp(name, "gpus") && !address) {
		if (act(NULL, SIM_FAULT_NVML, &ret))
			answer_gpus(c);
		return ret;
	}
	while ((word = strsep(&text, " ")) != NULL)
		if (cmd.nr == WORDS_MAX || kstrtouint(word, 10, &cmd.number[cmd.nr++]))
			return -EINVAL;
	for (i = 0; i < ARRAY_SIZE(verbs); i++) {
		verb = &verbs[i];
		if (strcmp(name, verb->name))
			continue;
		if (!address || cmd.nr < verb->min || cmd.nr > verb->max)
			return -EINVAL;
		if (verb->changes && !capable(CAP_SYS_ADMIN))
			return -EPERM;
		cmd.board = sim_board_find(address);
		return run_verb(verb, &cmd);
	}
	return -EINVAL;
}

static ssize_t nvidiactl_write(struct file *file, const char __user *buf, size_t count,
			       loff_t *pos)
{
	struct client *c = file->private_data;
	char text[COMMAND_MAX];
	int ret;

	if (count >= sizeof(text))
		return -EINVAL;
	if (copy_from_user(text, buf, count))
		return -EFAULT;
	text[count] = '\0';
	ret = sim_debug_nvml_wait();
	if (ret)
		return ret;
	mutex_lock(&c->lock);
	c->length = 0;
	ret = run(c, text);
	if (ret)
		c->length = 0;
	*pos = 0;
	mutex_unlock(&c->lock);
	return ret ?: count;
}

static ssize_t nvidiactl_read(struct file *file, char __user *buf, size_t count, loff_t *pos)
{
	struct client *c = file->private_data;
	ssize_t ret;

	mutex_lock(&c->lock);
	ret = simple_read_from_buffer(buf, count, pos, c->answer, c->length);
	mutex_unlock(&c->lock);
	return ret;
}

static int nvidiactl_open(struct inode *inode, struct file *file)
{
	struct client *c = kvzalloc(sizeof(*c), GFP_KERNEL);

	if (!c)
		return -ENOMEM;
	mutex_init(&c->lock);
	file->private_data = c;
	atomic_inc(&openers);
	return 0;
}

static int nvidiactl_release(struct inode *inode, struct file *file)
{
	atomic_dec(&openers);
	kvfree(file->private_data);
	return 0;
}

static const struct file_operations nvidiactl_fops = {
	.owner = THIS_MODULE,
	.open = nvidiactl_open,
	.read = nvidiactl_read,
	.write = nvidiactl_write,
	.release = nvidiactl_release,
};

static struct miscdevice nvidiactl_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "nvidiactl",
	.mode = 0666,
	.fops = &nvidiactl_fops,
};

/* ---- /proc/driver/nvidia ---- */

static int version_show(struct seq_file *s, void *unused)
{
	seq_puts(s, "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.05  Simulator\n");
	return 0;
}

static int unbind_lock_show(struct seq_file *s, void *unused)
{
	struct sim_board *b = s->private;

	mutex_lock(&b->lock);
	seq_printf(s, "%d\n", b->unbind_lock);
	mutex_unlock(&b->lock);
	return 0;
}

static int unbind_lock_open(struct inode *inode, struct file *file)
{
	return single_open(file, unbind_lock_show, pde_data(inode));
}

/* Not granted is no error: whoever wants it reads it back. */
static ssize_t unbind_lock_write(struct file *file, const char __user *buf, size_t count,
				 loff_t *pos)
{
	struct sim_board *b = pde_data(file_inode(file));
	const struct sim_instance *i;
	bool wanted;
	int ret;

	ret = kstrtobool_from_user(buf, count, &wanted);
	if (ret)
		return ret;
	mutex_lock(&b->lock);
	b->unbind_lock = wanted && !atomic_read(&openers);
	list_for_each_entry(i, &b->instances, node)
		if (i->open)
			b->unbind_lock = false;
	mutex_unlock(&b->lock);
	return count;
}

static const struct proc_ops unbind_lock_ops = {
	.proc_open = unbind_lock_open,
	.proc_read = seq_read,
	.proc_write = unbind_lock_write,
	.proc_lseek = seq_lseek,
	.proc_release = single_release,
};

void sim_proc_board_add(struct sim_board *b)
{
	b->proc = proc_mkdir(b->address, proc_gpus);
	if (b->proc)
		proc_create_data("unbindLock", 0600, b->proc, &unbind_lock_ops, b);
}

void sim_proc_board_remove(struct sim_board *b)
{
	proc_remove(b->proc);
	b->proc = NULL;
}

int sim_proc_init(void)
{
	proc_root = proc_mkdir("driver/nvidia", NULL);
	if (!proc_root)
		return -ENOMEM;
	proc_create_single("version", 0444, proc_root, version_show);
	proc_gpus = proc_mkdir("gpus", proc_root);
	if (!proc_gpus) {
		proc_remove(proc_root);
		return -ENOMEM;
	}
	return 0;
}

void sim_proc_exit(void)
{
	proc_remove(proc_root);
}

int sim_nvidiactl_init(void)
{
	return misc_register(&nvidiactl_device);
}

void sim_nvidiactl_exit(void)
{
	misc_deregister(&nvidiactl_device);
}
