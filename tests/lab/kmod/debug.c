// SPDX-License-Identifier: GPL-2.0-only
/*
 * The other files below /sys/kernel/debug/virt_vgpu_sim: how long things take,
 * boards and VFs that go away, and what is inside.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt
#include <linux/crc32.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/wait.h>
#include "sim.h"

#define INIT_MS		3000

u32 sim_plugin_exit_ms, sim_init_ms = INIT_MS, sim_attributes_ms;

static struct dentry *debug_root, *debug_boards, *debug_vgpus;

/* ---- nvml_hang ---- */

static bool nvml_hang;
static DECLARE_WAIT_QUEUE_HEAD(nvml_wait);

int sim_debug_nvml_wait(void)
{
	return wait_event_killable(nvml_wait, !READ_ONCE(nvml_hang));
}

static void nvml_hang_set(bool hang)
{
	WRITE_ONCE(nvml_hang, hang);
	wake_up_all(&nvml_wait);
}

static ssize_t nvml_hang_read(struct file *file, char __user *buf, size_t count, loff_t *pos)
{
	return simple_read_from_buffer(buf, count, pos, READ_ONCE(nvml_hang) ? "Y\n" : "N\n", 2);
}

static ssize_t nvml_hang_write(struct file *file, const char __user *buf, size_t count,
			       loff_t *pos)
{
	bool hang;
	int ret;

	ret = kstrtobool_from_user(buf, count, &hang);
	if (ret)
		return ret;
	nvml_hang_set(hang);
	return count;
}

static const struct file_operations nvml_hang_fops = {
	.owner = THIS_MODULE,
	.open = simple_open,
	.read = nvml_hang_read,
	.write = nvml_hang_write,
	.llseek = default_llseek,
};

/* ---- reset: any write makes everything healthy ---- */

static ssize_t reset_write(struct file *file, const char __user *buf, size_t count, loff_t *pos)
{
	struct sim_board *board;
	unsigned int i;
	int ret;

	/* All are healthy before one is waited for. */
	sim_faults_heal(&sim_faults_everywhere);
	WRITE_ONCE(sim_plugin_exit_ms, 0);
	WRITE_ONCE(sim_init_ms, INIT_MS);
	WRITE_ONCE(sim_attributes_ms, 0);
	nvml_hang_set(false);
	for (i = 0; (board = sim_board_get(i)) != NULL; i++) {
		sim_faults_heal(&board->faults);
		mutex_lock(&board->lock);
		board->lost = false;
		mutex_unlock(&board->lock);
	}
	for (i = 0; (board = sim_board_get(i)) != NULL; i++) {
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

static int lost_get(void *data, u64 *value)
{
	struct sim_board *board = data;

	mutex_lock(&board->lock);
	*value = board->lost;
	mutex_unlock(&board->lock);
	return 0;
}

static int lost_set(void *data, u64 value)
{
	struct sim_board *board = data;

	mutex_lock(&board->lock);
	board->lost = value;
	mutex_unlock(&board->lock);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(lost_fops, lost_get, lost_set, "%llu\n");

static int vanish_set(void *data, u64 value)
{
	return sim_board_vanish(data, min_t(u64, value, UINT_MAX));
}
DEFINE_DEBUGFS_ATTRIBUTE(vanish_fops, NULL, vanish_set, "%llu\n");

static int wedged_show(struct seq_file *s, void *unused)
{
	struct sim_board *board = s->private;
	char address[16];
	unsigned int i;

	mutex_lock(&board->lock);
	for (i = 0; i < board->model->vfs; i++) {
		if (!board->vfs[i].wedged)
			continue;
		sim_vf_address(board, i, address, sizeof(address));
		seq_printf(s, "%s\n", address);
	}
	mutex_unlock(&board->lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(wedged);

/* Not the _unsafe variant: a removal may take as long as a VM runs. */
void sim_debug_board_add(struct sim_board *board)
{
	struct dentry *dir = debugfs_create_dir(board->address, debug_boards);

	board->debug = dir;
	sim_faults_files(dir, &board->faults);
	debugfs_create_file("present", 0600, dir, board, &present_fops);
	debugfs_create_file("lost", 0600, dir, board, &lost_fops);
	if (!board->model->vfs)
		return;
	debugfs_create_file("vanish", 0200, dir, board, &vanish_fops);
	debugfs_create_file("wedged", 0400, dir, board, &wedged_fops);
}

void sim_debug_board_remove(struct sim_board *board)
{
	debugfs_remove(board->debug);
	board->debug = NULL;
}

/* ---- vgpus/NAME ---- */

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
	const struct sim_instance *instance;

	mutex_lock(&vgpu->board->lock);
	instance = sim_vgpu_instance(vgpu);
	seq_printf(s, "%d\n", instance && instance->open);
	mutex_unlock(&vgpu->board->lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(open);

/* ---- guest: NVIDIA's driver in the VM, until the VM ends ---- */

static int guest_show(struct seq_file *s, void *unused)
{
	struct sim_vgpu *vgpu = s->private;
	const struct sim_instance *instance;

	mutex_lock(&vgpu->board->lock);
	instance = sim_vgpu_instance(vgpu);
	seq_printf(s, "%s\n", instance && instance->guest[0] ? instance->guest : "none");
	mutex_unlock(&vgpu->board->lock);
	return 0;
}

static int guest_open(struct inode *inode, struct file *file)
{
	return single_open(file, guest_show, inode->i_private);
}

static ssize_t guest_write(struct file *file, const char __user *buf, size_t count, loff_t *pos)
{
	struct sim_vgpu *vgpu = ((struct seq_file *)file->private_data)->private;
	char text[SIM_GUEST_MAX + 1] = "", version[16];
	struct sim_instance *instance;
	unsigned int n[8];
	bool none;

	if (count > SIM_GUEST_MAX)
		return -E2BIG;
	if (copy_from_user(text, buf, count))
		return -EFAULT;
	none = sysfs_streq(text, "none");
	if (!none && sscanf(text, "%15s %u %u %u %u %u %u %u %u", version, &n[0], &n[1], &n[2],
			    &n[3], &n[4], &n[5], &n[6], &n[7]) != 9)
		return -EINVAL;
	mutex_lock(&vgpu->board->lock);
	instance = sim_vgpu_instance(vgpu);
	if (instance && instance->open)
		strscpy(instance->guest, none ? "" : strim(text), sizeof(instance->guest));
	else
		count = 0;
	mutex_unlock(&vgpu->board->lock);
	return count ?: -ENXIO;
}

static const struct file_operations guest_fops = {
	.owner = THIS_MODULE,
	.open = guest_open,
	.read = seq_read,
	.write = guest_write,
	.llseek = seq_lseek,
	.release = single_release,
};

void sim_debug_vgpu_add(struct sim_vgpu *vgpu)
{
	vgpu->debug = debugfs_create_dir(dev_name(vgpu->vdev.dev), debug_vgpus);
	debugfs_create_file("framebuffer_crc", 0400, vgpu->debug, vgpu, &framebuffer_crc_fops);
	debugfs_create_file("open", 0400, vgpu->debug, vgpu, &open_fops);
	debugfs_create_file("guest", 0600, vgpu->debug, vgpu, &guest_fops);
}

/* Waits for readers. */
void sim_debug_vgpu_remove(struct sim_vgpu *vgpu)
{
	debugfs_remove(vgpu->debug);
	vgpu->debug = NULL;
}

void sim_debug_init(void)
{
	debug_root = debugfs_create_dir(SIM_NAME, NULL);
	debug_boards = debugfs_create_dir("boards", debug_root);
	debug_vgpus = debugfs_create_dir("vgpus", debug_root);
	sim_faults_init(&sim_faults_everywhere);
	sim_faults_files(debug_root, &sim_faults_everywhere);
	debugfs_create_u32("plugin_exit_ms", 0600, debug_root, &sim_plugin_exit_ms);
	debugfs_create_u32("init_ms", 0600, debug_root, &sim_init_ms);
	debugfs_create_u32("attributes_ms", 0600, debug_root, &sim_attributes_ms);
	debugfs_create_file("nvml_hang", 0600, debug_root, NULL, &nvml_hang_fops);
	debugfs_create_file("reset", 0200, debug_root, NULL, &reset_fops);
}

void sim_debug_exit(void)
{
	debugfs_remove(debug_root);
}
