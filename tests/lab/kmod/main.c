// SPDX-License-Identifier: GPL-2.0-only
/*
 * Loading and unloading, in the order that the parts need each other.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt
#include <linux/module.h>
#include <linux/string.h>
#include "sim.h"

bool sim_vendor_vfio, sim_rfc;

static char *boards = "t4@0000:3b:00.0";
module_param(boards, charp, 0444);
MODULE_PARM_DESC(boards, "comma-separated MODEL@DDDD:BB:DD.0[/NUMA-NODE]");

static char *framework = "vendor-vfio";
module_param(framework, charp, 0444);
MODULE_PARM_DESC(framework, "of boards with SR-IOV: vendor-vfio (default) or sriov-mdev");

static char *dialect = "kmod";
module_param(dialect, charp, 0444);
MODULE_PARM_DESC(dialect, "errnos of current_vgpu_type: kmod (default) or rfc");

/* Nothing here asks for it: sriov-manage reads it, as versions of that differ. */
static bool rebind_again = true;
module_param(rebind_again, bool, 0444);
MODULE_PARM_DESC(rebind_again,
	"sriov-manage binds a GPU again that is as wanted already (default); N: it leaves it alone");

/* Which of the two words it is, -EINVAL: neither. */
static int choice(const char *name, const char *word, const char *no, const char *yes)
{
	if (!strcmp(word, no))
		return 0;
	if (!strcmp(word, yes))
		return 1;
	pr_err("%s: '%s' is neither %s nor %s\n", name, word, no, yes);
	return -EINVAL;
}

static int parameters(void)
{
	int vendor = choice("framework", framework, "sriov-mdev", "vendor-vfio");
	int rfc = choice("dialect", dialect, "kmod", "rfc");

	if (vendor < 0 || rfc < 0)
		return -EINVAL;
	sim_vendor_vfio = vendor;
	sim_rfc = rfc;
	return 0;
}

static int __init sim_init(void)
{
	int ret;

	ret = parameters();
	if (ret)
		return ret;
	sim_debug_init();
	ret = sim_proc_init();
	if (ret)
		goto out_debug;
	ret = sim_mdev_driver_register();
	if (ret)
		goto out_proc;
	ret = sim_divert_init();
	if (ret)
		goto out_mdev;
	/* Before the boards: they are then bound as the bus is scanned. */
	ret = sim_gpu_driver_register();
	if (ret)
		goto out_divert;
	ret = sim_buses_create(boards);
	if (ret)
		goto out_gpu;
	/* Last: their users may do things to all of the above. */
	ret = sim_nvidiactl_init();
	if (ret)
		goto out_buses;
	ret = sim_services_init();
	if (ret)
		goto out_nvidiactl;
	return 0;

out_nvidiactl:
	sim_nvidiactl_exit();
out_buses:
	sim_buses_destroy();
out_gpu:
	sim_gpu_driver_unregister();
out_divert:
	sim_divert_exit();
out_mdev:
	sim_mdev_driver_unregister();
out_proc:
	sim_proc_exit();
out_debug:
	sim_debug_exit();
	return ret;
}

/* An open file of any kind pins the module, so nobody is moving boards now. */
static void __exit sim_exit(void)
{
	sim_services_exit();
	sim_nvidiactl_exit();
	sim_buses_destroy();
	sim_gpu_driver_unregister();
	sim_divert_exit();
	sim_mdev_driver_unregister();
	sim_proc_exit();
	sim_debug_exit();
}

module_init(sim_init);
module_exit(sim_exit);
/* A package puts its own version in its place, of the same length. */
MODULE_VERSION("000.00.00");
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Simulator of a host with NVIDIA vGPU boards");
