// SPDX-License-Identifier: GPL-2.0-only
/*
 * Making operations fail or take long: fail_OP and delay_OP below
 * /sys/kernel/debug/virt_vgpu_sim, for every board and for one.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include "sim.h"

/* Longer sleeps would make the kernel report hung tasks. */
#define DELAY_MAX_MS	60000

struct sim_faults sim_faults_everywhere;

static const char * const op_names[SIM_FAULT_OPS] = {
	[SIM_FAULT_CREATE] = "create",
	[SIM_FAULT_REMOVE] = "remove",
	[SIM_FAULT_SET_TYPE] = "set_type",
	[SIM_FAULT_RELEASE] = "release",
	[SIM_FAULT_PARAMS] = "params",
	[SIM_FAULT_PLACEMENT] = "placement",
	[SIM_FAULT_GPU_INSTANCE] = "gpu_instance",
	[SIM_FAULT_OPEN] = "open",
	[SIM_FAULT_NVML] = "nvml",
	[SIM_FAULT_READ] = "read",
	[SIM_FAULT_MIG] = "mig",
	[SIM_FAULT_HETERO] = "hetero",
	[SIM_FAULT_GI_HETERO] = "gi_hetero",
	[SIM_FAULT_GI_CREATE] = "gi_create",
	[SIM_FAULT_GI_DESTROY] = "gi_destroy",
	[SIM_FAULT_CI_CREATE] = "ci_create",
	[SIM_FAULT_CI_DESTROY] = "ci_destroy",
	[SIM_FAULT_SCHEDULER] = "scheduler",
	[SIM_FAULT_GI_SCHEDULER] = "gi_scheduler",
	[SIM_FAULT_GPU_RESET] = "gpu_reset",
};

/* ---- what the rest asks ---- */

static bool take_failure(struct sim_fault *f, int *number)
{
	unsigned long flags;
	bool taken = false;

	spin_lock_irqsave(&f->lock, flags);
	if (f->fail_count) {
		f->fail_count--;
		*number = f->fail_errno;
		taken = true;
	}
	spin_unlock_irqrestore(&f->lock, flags);
	return taken;
}

static unsigned int take_delay(struct sim_fault *f)
{
	unsigned long flags;
	unsigned int ms = 0;

	spin_lock_irqsave(&f->lock, flags);
	if (f->delay_count) {
		f->delay_count--;
		ms = f->delay_ms;
	}
	spin_unlock_irqrestore(&f->lock, flags);
	return ms;
}

/* Whether this operation has to fail, and with which (positive) errno. @board may be NULL. */
bool sim_fault_take(struct sim_board *board, enum sim_fault_op op, int *number)
{
	return (board && take_failure(&board->faults.op[op], number)) ||
	       take_failure(&sim_faults_everywhere.op[op], number);
}

/*
 * Not interruptible, like a driver that waits for its firmware: a writer that is
 * killed meanwhile leaves a vGPU that comes into being without it.
 */
void sim_fault_delay(struct sim_board *board, enum sim_fault_op op)
{
	unsigned int ms = board ? take_delay(&board->faults.op[op]) : 0;

	if (!ms)
		ms = take_delay(&sim_faults_everywhere.op[op]);
	if (ms)
		msleep(ms);
}

/*
 * For the read of an attribute, with the board's lock held: a driver that is busy
 * answers nobody who asks about that board. 0, or what the read ends with.
 */
int sim_fault_read(struct sim_board *board)
{
	int number;

	sim_fault_delay(board, SIM_FAULT_READ);
	return sim_fault_take(board, SIM_FAULT_READ, &number) ? -number : 0;
}

/* For the write of an attribute: whether it ends here, and with what. */
bool sim_fault_store(struct sim_board *board, enum sim_fault_op op, size_t count, ssize_t *ret)
{
	int number;

	sim_fault_delay(board, op);
	if (!sim_fault_take(board, op, &number))
		return false;
	*ret = number ? -number : count;
	return true;
}

void sim_faults_init(struct sim_faults *faults)
{
	unsigned int op;

	for (op = 0; op < SIM_FAULT_OPS; op++) {
		spin_lock_init(&faults->op[op].lock);
		/*
		 * VFIO and the mdev core see to it that there is something then, and an
		 * instance that is claimed has an id.
		 */
		faults->op[op].can_pretend = op != SIM_FAULT_CREATE &&
					     op != SIM_FAULT_OPEN && op != SIM_FAULT_READ &&
					     op != SIM_FAULT_GI_CREATE &&
					     op != SIM_FAULT_CI_CREATE;
	}
}

void sim_faults_heal(struct sim_faults *faults)
{
	unsigned int op;

	for (op = 0; op < SIM_FAULT_OPS; op++) {
		struct sim_fault *f = &faults->op[op];

		spin_lock_irq(&f->lock);
		f->fail_count = f->delay_count = 0;
		f->fail_errno = f->delay_ms = 0;
		spin_unlock_irq(&f->lock);
	}
}

/* ---- fail_OP: "COUNT ERRNO" ---- */

static const struct {
	const char *name;
	int number;
} errnos[] = {
	{ "OK", 0 }, { "EPERM", EPERM }, { "EIO", EIO }, { "ENXIO", ENXIO },
	{ "EAGAIN", EAGAIN }, { "ENOMEM", ENOMEM }, { "EACCES", EACCES }, { "EBUSY", EBUSY },
	{ "EEXIST", EEXIST }, { "ENODEV", ENODEV }, { "EINVAL", EINVAL }, { "ENOSPC", ENOSPC },
	{ "ETIMEDOUT", ETIMEDOUT }, { "ENOENT", ENOENT }, { "EOPNOTSUPP", EOPNOTSUPP },
	{ "E2BIG", E2BIG }, { "ERANGE", ERANGE },
};

static int errno_by_name(const char *name)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(errnos); i++)
		if (!strcmp(errnos[i].name, name))
			return errnos[i].number;
	return -EINVAL;
}

static const char *errno_name(int number)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(errnos); i++)
		if (errnos[i].number == number)
			return errnos[i].name;
	return "?";
}

static int copy_line(char *line, size_t size, const char __user *buf, size_t count)
{
	if (count >= size)
		return -EINVAL;
	if (copy_from_user(line, buf, count))
		return -EFAULT;
	line[count] = '\0';
	return 0;
}

static struct sim_fault *fault_of(struct file *file)
{
	return ((struct seq_file *)file->private_data)->private;
}

static int fail_show(struct seq_file *s, void *unused)
{
	struct sim_fault *f = s->private;

	spin_lock_irq(&f->lock);
	seq_printf(s, "%u %s\n", f->fail_count, errno_name(f->fail_errno));
	spin_unlock_irq(&f->lock);
	return 0;
}

static ssize_t fail_write(struct file *file, const char __user *buf, size_t count, loff_t *pos)
{
	struct sim_fault *f = fault_of(file);
	char line[32], name[16] = "EIO";
	unsigned int times;
	int number, ret;

	ret = copy_line(line, sizeof(line), buf, count);
	if (ret)
		return ret;
	if (sscanf(line, "%u %15s", &times, name) < 1)
		return -EINVAL;
	number = errno_by_name(name);
	if (number < 0 || (!number && !f->can_pretend))
		return -EINVAL;
	spin_lock_irq(&f->lock);
	f->fail_count = times;
	f->fail_errno = number;
	spin_unlock_irq(&f->lock);
	return count;
}

static int fail_open(struct inode *inode, struct file *file)
{
	return single_open(file, fail_show, inode->i_private);
}

static const struct file_operations fail_fops = {
	.owner = THIS_MODULE,
	.open = fail_open,
	.read = seq_read,
	.write = fail_write,
	.llseek = seq_lseek,
	.release = single_release,
};

/* ---- delay_OP: "COUNT MILLISECONDS" ---- */

static int delay_show(struct seq_file *s, void *unused)
{
	struct sim_fault *f = s->private;

	spin_lock_irq(&f->lock);
	seq_printf(s, "%u %u\n", f->delay_count, f->delay_ms);
	spin_unlock_irq(&f->lock);
	return 0;
}

static ssize_t delay_write(struct file *file, const char __user *buf, size_t count, loff_t *pos)
{
	struct sim_fault *f = fault_of(file);
	unsigned int times, ms;
	char line[32];
	int ret;

	ret = copy_line(line, sizeof(line), buf, count);
	if (ret)
		return ret;
	if (sscanf(line, "%u %u", &times, &ms) != 2 || ms > DELAY_MAX_MS)
		return -EINVAL;
	spin_lock_irq(&f->lock);
	f->delay_count = times;
	f->delay_ms = ms;
	spin_unlock_irq(&f->lock);
	return count;
}

static int delay_open(struct inode *inode, struct file *file)
{
	return single_open(file, delay_show, inode->i_private);
}

static const struct file_operations delay_fops = {
	.owner = THIS_MODULE,
	.open = delay_open,
	.read = seq_read,
	.write = delay_write,
	.llseek = seq_lseek,
	.release = single_release,
};

void sim_faults_files(struct dentry *dir, struct sim_faults *faults)
{
	char name[32];
	unsigned int op;

	for (op = 0; op < SIM_FAULT_OPS; op++) {
		snprintf(name, sizeof(name), "fail_%s", op_names[op]);
		debugfs_create_file(name, 0600, dir, &faults->op[op], &fail_fops);
		snprintf(name, sizeof(name), "delay_%s", op_names[op]);
		debugfs_create_file(name, 0600, dir, &faults->op[op], &delay_fops);
	}
}
