// SPDX-License-Identifier: GPL-2.0-only
/*
 * /sys/kernel/debug/virt_vgpu_sim: making the simulator misbehave, and looking
 * inside. The files are described in tests/lab/README.md.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt
#include <linux/crc32.h>
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include "sim.h"

/* Longer sleeps would make the kernel report hung tasks. */
#define DELAY_MAX_MS	60000

static struct dentry *debug_root, *debug_boards, *debug_vgpus;
static struct sim_faults everywhere = { .lock = __SPIN_LOCK_UNLOCKED(everywhere.lock) };

/* ---- what the rest asks ---- */

static bool take_failure(struct sim_faults *faults, enum sim_fault_op op, int *number)
{
	struct sim_fault *f = &faults->op[op];
	unsigned long flags;
	bool taken = false;

	spin_lock_irqsave(&faults->lock, flags);
	if (f->fail_count) {
		f->fail_count--;
		*number = f->fail_errno;
		taken = true;
	}
	spin_unlock_irqrestore(&faults->lock, flags);
	return taken;
}

static unsigned int take_delay(struct sim_faults *faults, enum sim_fault_op op)
{
	struct sim_fault *f = &faults->op[op];
	unsigned long flags;
	unsigned int ms = 0;

	spin_lock_irqsave(&faults->lock, flags);
	if (f->delay_count) {
		f->delay_count--;
		ms = f->delay_ms;
	}
	spin_unlock_irqrestore(&faults->lock, flags);
	return ms;
}

/* Whether this operation has to fail, and with which (positive) errno. */
bool sim_fault_take(struct sim_board *board, enum sim_fault_op op, int *number)
{
	return take_failure(&board->faults, op, number) || take_failure(&everywhere, op, number);
}

/*
 * Not interruptible, like a driver that waits for its firmware: a writer that is
 * killed meanwhile leaves a vGPU that comes into being without it.
 */
void sim_fault_delay(struct sim_board *board, enum sim_fault_op op)
{
	unsigned int ms = take_delay(&board->faults, op);

	if (!ms)
		ms = take_delay(&everywhere, op);
	if (ms)
		msleep(ms);
}

/* ---- fail_create, fail_remove: "COUNT ERRNO" ---- */

static const struct {
	const char *name;
	int number;
} errnos[] = {
	{ "OK", 0 }, { "EPERM", EPERM }, { "EIO", EIO }, { "ENXIO", ENXIO },
	{ "EAGAIN", EAGAIN }, { "ENOMEM", ENOMEM }, { "EACCES", EACCES }, { "EBUSY", EBUSY },
	{ "EEXIST", EEXIST }, { "ENODEV", ENODEV }, { "EINVAL", EINVAL }, { "ENOSPC", ENOSPC },
	{ "ETIMEDOUT", ETIMEDOUT },
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

static int fail_show(struct seq_file *s, enum sim_fault_op op)
{
	struct sim_faults *faults = s->private;
	struct sim_fault f;

	spin_lock_irq(&faults->lock);
	f = faults->op[op];
	spin_unlock_irq(&faults->lock);
	seq_printf(s, "%u %s\n", f.fail_count, errno_name(f.fail_errno));
	return 0;
}

static ssize_t fail_store(struct sim_faults *faults, enum sim_fault_op op,
			  const char __user *buf, size_t count)
{
	char line[32], name[16] = "EIO";
	unsigned int times;
	int number, ret;

	ret = copy_line(line, sizeof(line), buf, count);
	if (ret)
		return ret;
	if (sscanf(line, "%u %15s", &times, name) < 1)
		return -EINVAL;
	number = errno_by_name(name);
	/* A creation cannot succeed without effect: the core checks. */
	if (number < 0 || (op == SIM_FAULT_CREATE && !number))
		return -EINVAL;
	spin_lock_irq(&faults->lock);
	faults->op[op].fail_count = times;
	faults->op[op].fail_errno = number;
	spin_unlock_irq(&faults->lock);
	return count;
}

/* ---- delay_create, delay_remove: "COUNT MILLISECONDS" ---- */

static int delay_show(struct seq_file *s, enum sim_fault_op op)
{
	struct sim_faults *faults = s->private;
	struct sim_fault f;

	spin_lock_irq(&faults->lock);
	f = faults->op[op];
	spin_unlock_irq(&faults->lock);
	seq_printf(s, "%u %u\n", f.delay_count, f.delay_ms);
	return 0;
}

static ssize_t delay_store(struct sim_faults *faults, enum sim_fault_op op,
			   const char __user *buf, size_t count)
{
	unsigned int times, ms;
	char line[32];
	int ret;

	ret = copy_line(line, sizeof(line), buf, count);
	if (ret)
		return ret;
	if (sscanf(line, "%u %u", &times, &ms) != 2 || ms > DELAY_MAX_MS)
		return -EINVAL;
	spin_lock_irq(&faults->lock);
	faults->op[op].delay_count = times;
	faults->op[op].delay_ms = ms;
	spin_unlock_irq(&faults->lock);
	return count;
}

#define FAULT_FILE(kind, verb, op)						\
static int kind##_##verb##_show(struct seq_file *s, void *unused)		\
{										\
	return kind##_show(s, op);						\
}										\
static int kind##_##verb##_open(struct inode *inode, struct file *file)	\
{										\
	return single_open(file, kind##_##verb##_show, inode->i_private);	\
}										\
static ssize_t kind##_##verb##_write(struct file *file, const char __user *buf,	\
				     size_t count, loff_t *pos)			\
{										\
	return kind##_store(((struct seq_file *)file->private_data)->private,	\
			    op, buf, count);					\
}										\
static const struct file_operations kind##_##verb##_fops = {			\
	.owner = THIS_MODULE,							\
	.open = kind##_##verb##_open,						\
	.read = seq_read,							\
	.write = kind##_##verb##_write,						\
	.llseek = seq_lseek,							\
	.release = single_release,						\
}

FAULT_FILE(fail, create, SIM_FAULT_CREATE);
FAULT_FILE(fail, remove, SIM_FAULT_REMOVE);
FAULT_FILE(delay, create, SIM_FAULT_CREATE);
FAULT_FILE(delay, remove, SIM_FAULT_REMOVE);

static void fault_files(struct dentry *dir, struct sim_faults *faults)
{
	debugfs_create_file("fail_create", 0600, dir, faults, &fail_create_fops);
	debugfs_create_file("fail_remove", 0600, dir, faults, &fail_remove_fops);
	debugfs_create_file("delay_create", 0600, dir, faults, &delay_create_fops);
	debugfs_create_file("delay_remove", 0600, dir, faults, &delay_remove_fops);
}

/* ---- reset: any write makes everything healthy ---- */

static void heal(struct sim_faults *faults)
{
	spin_lock_irq(&faults->lock);
	memset(faults->op, 0, sizeof(faults->op));
	spin_unlock_irq(&faults->lock);
}

static ssize_t reset_write(struct file *file, const char __user *buf, size_t count, loff_t *pos)
{
	struct sim_board *board;
	unsigned int i;
	int ret;

	heal(&everywhere);
	for (i = 0; (board = sim_board_get(i)) != NULL; i++) {
		heal(&board->faults);
		ret = sim_board_set_present(board, true);
		if (ret)
			return ret;
	}
	return count;
}

static const struct file_operations reset_fops = {
	.owner = THIS_MODULE,
	.open = simple_open,
	.write = reset_write,
};

/* ---- boards/ADDRESS ---- */

static int present_get(void *data, u64 *value)
{
	struct sim_board *board = data;

	*value = READ_ONCE(board->present);
	return 0;
}

static int present_set(void *data, u64 value)
{
	return sim_board_set_present(data, value);
}
DEFINE_DEBUGFS_ATTRIBUTE(present_fops, present_get, present_set, "%llu\n");

void sim_faults_board_add(struct sim_board *board)
{
	board->debug = debugfs_create_dir(board->address, debug_boards);
	fault_files(board->debug, &board->faults);
	/* Not the _unsafe variant: a removal may take as long as a VM runs. */
	debugfs_create_file("present", 0600, board->debug, board, &present_fops);
}

void sim_faults_board_remove(struct sim_board *board)
{
	debugfs_remove(board->debug);
	board->debug = NULL;
}

/* ---- vgpus/UUID ---- */

static int framebuffer_crc_show(struct seq_file *s, void *unused)
{
	struct sim_vgpu *vgpu = s->private;
	u32 crc;

	mutex_lock(&vgpu->lock);
	crc = crc32_le(~0, vgpu->framebuffer, sizeof(vgpu->framebuffer));
	mutex_unlock(&vgpu->lock);
	seq_printf(s, "%08x\n", crc);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(framebuffer_crc);

static int open_show(struct seq_file *s, void *unused)
{
	struct sim_vgpu *vgpu = s->private;

	mutex_lock(&vgpu->lock);
	seq_printf(s, "%d\n", vgpu->open);
	mutex_unlock(&vgpu->lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(open);

void sim_faults_vgpu_add(struct sim_vgpu *vgpu)
{
	vgpu->debug = debugfs_create_dir(dev_name(&vgpu->mdev->dev), debug_vgpus);
	debugfs_create_file("framebuffer_crc", 0400, vgpu->debug, vgpu, &framebuffer_crc_fops);
	debugfs_create_file("open", 0400, vgpu->debug, vgpu, &open_fops);
}

/* Waits for readers. */
void sim_faults_vgpu_remove(struct sim_vgpu *vgpu)
{
	debugfs_remove(vgpu->debug);
	vgpu->debug = NULL;
}

void sim_faults_init(void)
{
	debug_root = debugfs_create_dir(SIM_NAME, NULL);
	debug_boards = debugfs_create_dir("boards", debug_root);
	debug_vgpus = debugfs_create_dir("vgpus", debug_root);
	fault_files(debug_root, &everywhere);
	debugfs_create_file("reset", 0200, debug_root, NULL, &reset_fops);
}

void sim_faults_exit(void)
{
	debugfs_remove(debug_root);
}
