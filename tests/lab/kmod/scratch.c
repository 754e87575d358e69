// SPDX-License-Identifier: GPL-2.0-only
/*
 * A scratch register of the GPU that holds the MIG mode of boards on which it outlives
 * the driver and a reboot. It is a file of the host: the module itself is gone then.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt
#include <linux/fs.h>
#include <linux/fs_struct.h>
#include <linux/module.h>
#include <linux/path.h>
#include <linux/sched/task.h>
#include "sim.h"

/*
 * As seen from the host: whoever sets the mode may have another root, or may not write
 * below /var.
 */
static struct file *scratch_open(const struct sim_board *b, int flags)
{
	char name[64];
	struct file *file;
	struct path root;

	snprintf(name, sizeof(name), "/var/lib/" SIM_NAME ".mig.%s", b->address);
	task_lock(&init_task);
	get_fs_root(init_task.fs, &root);
	task_unlock(&init_task);
	file = file_open_root(&root, name, flags, 0600);
	path_put(&root);
	return file;
}

bool sim_scratch_load(const struct sim_board *b)
{
	struct file *file;
	char mode = '0';
	loff_t pos = 0;

	if (!b->model->mig_reset)
		return false;
	file = scratch_open(b, O_RDONLY);
	if (IS_ERR(file))
		return false;
	kernel_read(file, &mode, 1, &pos);
	filp_close(file, NULL);
	return mode == '1';
}

void sim_scratch_store(const struct sim_board *b)
{
	char mode = b->mig_pending ? '1' : '0';
	struct file *file;
	loff_t pos = 0;

	if (!b->model->mig_reset)
		return;
	file = scratch_open(b, O_WRONLY | O_CREAT | O_TRUNC);
	if (IS_ERR(file)) {
		pr_err("%s: the MIG mode will not outlive the module: %ld\n", b->address,
		       PTR_ERR(file));
		return;
	}
	if (kernel_write(file, &mode, 1, &pos) != 1 || vfs_fsync(file, 0))
		pr_err("%s: the MIG mode will not outlive the module\n", b->address);
	filp_close(file, NULL);
}
