// SPDX-License-Identifier: GPL-2.0-only
/*
 * Two places where the kernel's own functions would not do what the simulator
 * needs, and no driver is asked. A probe at their entry diverts the calls in
 * question to answer(), whose argument becomes their result. User-mode Linux has
 * no probes: its kernel asks a hook instead (tests/lab/uml/patches), and has
 * IOMMUFD_DRIVER, so that the second place needs nothing.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/uaccess.h>
#include "sim.h"

/*
 * An mdev driver has no say in whether a removal succeeds, but older kernels and
 * NVIDIA's own versions did fail it. So the failure is put where user space meets
 * it: the store function of the core's attribute "remove".
 */
static bool remove_fails(struct device *dev, ssize_t *result)
{
	struct sim_function *fn;
	int number;

	if (dev->driver != &sim_mdev_driver.driver)
		return false;
	/* The parent outlives its vGPUs; a vGPU may be on its way out already. */
	fn = pci_get_drvdata(to_pci_dev(dev->parent));
	if (!sim_fault_take(fn->board, SIM_FAULT_REMOVE, &number))
		return false;
	/* Success without effect is a failure that was seen in the wild, too. */
	if (number)
		*result = -number;
	return true;
}

#ifdef CONFIG_UML

extern bool (*mdev_remove_hook)(struct device *dev, ssize_t *result);

int sim_divert_init(void)
{
	mdev_remove_hook = remove_fails;
	return 0;
}

void sim_divert_exit(void)
{
	mdev_remove_hook = NULL;
}

#else

static noinline long answer(long result)
{
	return result;
}

static int divert(struct pt_regs *regs, long result)
{
	regs->di = result;
	regs->ip = (unsigned long)answer;
	return 1;
}

/* Its presence tells the kprobe core that the other handler may divert. */
static void entered(struct kprobe *probe, struct pt_regs *regs, unsigned long flags)
{
}

static int remove_store(struct kprobe *probe, struct pt_regs *regs)
{
	struct device *dev = (struct device *)regs_get_kernel_argument(regs, 0);
	ssize_t result = regs_get_kernel_argument(regs, 3);

	return remove_fails(dev, &result) ? divert(regs, result) : 0;
}

static struct kprobe remove_probe = {
	.symbol_name = "mdev:remove_store",
	.pre_handler = remove_store,
	.post_handler = entered,
};

/*
 * QEMU migrates a VM only if the device tells which pages it dirtied. The VFIO
 * core needs IOMMUFD_DRIVER to pass on the report, which Debian's kernel lacks
 * and the kernels that NVIDIA supports migration on have: without it every
 * report fails with EOPNOTSUPP. Our report is empty anyway, and QEMU's bitmap
 * comes zeroed, so success without effect is the whole of it.
 */
static int device_ioctl(struct kprobe *probe, struct pt_regs *regs)
{
	const u32 report = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT;
	struct vfio_device_feature feature;

	if ((unsigned int)regs_get_kernel_argument(regs, 1) != VFIO_DEVICE_FEATURE)
		return 0;
	if (copy_from_user_nofault(&feature,
				   (void __user *)regs_get_kernel_argument(regs, 2),
				   offsetofend(struct vfio_device_feature, flags)))
		return 0;
	return feature.flags == report ? divert(regs, 0) : 0;
}

static struct kprobe report_probe = {
	.symbol_name = "vfio:vfio_device_fops_unl_ioctl",
	.pre_handler = device_ioctl,
	.post_handler = entered,
};

int sim_divert_init(void)
{
	int ret;

	ret = register_kprobe(&remove_probe);
	if (ret) {
		pr_err("no probe on %s: %d\n", remove_probe.symbol_name, ret);
		return ret;
	}
	if (IS_ENABLED(CONFIG_IOMMUFD_DRIVER))
		return 0;
	ret = register_kprobe(&report_probe);
	if (ret) {
		pr_err("no probe on %s: %d\n", report_probe.symbol_name, ret);
		unregister_kprobe(&remove_probe);
	}
	return ret;
}

void sim_divert_exit(void)
{
	if (!IS_ENABLED(CONFIG_IOMMUFD_DRIVER))
		unregister_kprobe(&report_probe);
	unregister_kprobe(&remove_probe);
}

#endif
