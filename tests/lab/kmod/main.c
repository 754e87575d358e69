// SPDX-License-Identifier: GPL-2.0-only
/*
 * Loading and unloading, in the order that the parts need each other.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt
#include <linux/module.h>
#include "sim.h"

static char *boards = "t4@0000:3b:00.0";
module_param(boards, charp, 0444);
MODULE_PARM_DESC(boards, "comma-separated MODEL@DDDD:BB:DD.0[/NUMA-NODE]");

static int __init sim_init(void)
{
	int ret;

	sim_faults_init();
	ret = sim_vgpu_driver_register();
	if (ret)
		goto out_faults;
	ret = sim_divert_init();
	if (ret)
		goto out_vgpu;
	/* Before the boards: they are then bound as the bus is scanned. */
	ret = sim_gpu_driver_register();
	if (ret)
		goto out_divert;
	ret = sim_buses_create(boards);
	if (ret)
		goto out_gpu;
	return 0;

out_gpu:
	sim_gpu_driver_unregister();
out_divert:
	sim_divert_exit();
out_vgpu:
	sim_vgpu_driver_unregister();
out_faults:
	sim_faults_exit();
	return ret;
}

static void __exit sim_exit(void)
{
	/* An open debugfs file pins the module, so nobody is moving boards now. */
	sim_buses_destroy();
	sim_gpu_driver_unregister();
	sim_divert_exit();
	sim_vgpu_driver_unregister();
	sim_faults_exit();
}

module_init(sim_init);
module_exit(sim_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Simulator of a host with NVIDIA vGPU boards");
