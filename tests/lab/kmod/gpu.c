// SPDX-License-Identifier: GPL-2.0-only
/*
 * The host driver: binds to the boards under the name "nvidia" (which makes the
 * type folders "nvidia-<id>"), registers each as an mdev parent, and answers as
 * the resource manager does what fits.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt
#include <linux/module.h>
#include <linux/slab.h>
#include "sim.h"

static bool mixed_series = true;
module_param(mixed_series, bool, 0444);
MODULE_PARM_DESC(mixed_series,
	"types of one frame buffer size share a GPU (default); N: one type only, as old drivers");

/*
 * The homogeneous rule: the first vGPU decides. From then on only types with the
 * same frame buffer size can be created, whatever their series, and every vGPU
 * counts against each of them. Counted is what exists, not what runs.
 */
static unsigned int available_locked(struct sim_gpu *gpu, const struct sim_type_info *info)
{
	if (gpu->created) {
		if (mixed_series ? gpu->first->fb_mib != info->fb_mib : gpu->first != info)
			return 0;
		if (gpu->created >= info->max_instance)
			return 0;
	}
	return info->max_instance - gpu->created;
}

unsigned int sim_gpu_available(struct sim_gpu *gpu, const struct sim_type_info *info)
{
	unsigned int n;

	mutex_lock(&gpu->lock);
	n = available_locked(gpu, info);
	mutex_unlock(&gpu->lock);
	return n;
}

/* Whatever the reason of a refusal, NVIDIA's driver makes it EIO. */
int sim_gpu_take(struct sim_gpu *gpu, const struct sim_type_info *info)
{
	int ret = -EIO;

	mutex_lock(&gpu->lock);
	if (available_locked(gpu, info)) {
		if (!gpu->created++)
			gpu->first = info;
		ret = 0;
	}
	mutex_unlock(&gpu->lock);
	return ret;
}

void sim_gpu_give(struct sim_gpu *gpu)
{
	mutex_lock(&gpu->lock);
	if (!--gpu->created)
		gpu->first = NULL;
	mutex_unlock(&gpu->lock);
}

static int gpu_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct sim_board *board = sim_board_of(pdev);
	struct sim_gpu *gpu;
	unsigned int i;
	int ret;

	if (!board)
		return -ENODEV;
	gpu = kzalloc(sizeof(*gpu), GFP_KERNEL);
	if (!gpu)
		return -ENOMEM;
	gpu->board = board;
	gpu->pdev = pdev;
	mutex_init(&gpu->lock);
	for (i = 0; i < board->model->nr_types; i++) {
		const struct sim_type_info *info = &board->model->types[i];

		gpu->types[i].info = info;
		gpu->types[i].mdev.sysfs_name = info->id;
		gpu->types[i].mdev.pretty_name = info->name;
		gpu->mdev_types[i] = &gpu->types[i].mdev;
	}
	pci_set_drvdata(pdev, gpu);
	ret = mdev_register_parent(&gpu->parent, &pdev->dev, &sim_mdev_driver,
				   gpu->mdev_types, board->model->nr_types);
	if (ret) {
		kfree(gpu);
		return ret;
	}
	/* libvirt looked at the device when it appeared; make it look again. */
	kobject_uevent(&pdev->dev.kobj, KOBJ_CHANGE);
	return 0;
}

/* Returns when the last vGPU is gone, which may have to wait for its user. */
static void gpu_remove(struct pci_dev *pdev)
{
	struct sim_gpu *gpu = pci_get_drvdata(pdev);

	mdev_unregister_parent(&gpu->parent);
	WARN_ON(gpu->created);
	kfree(gpu);
}

/*
 * No MODULE_DEVICE_TABLE: the module is loaded by name, never because a machine
 * has such a board.
 */
static const struct pci_device_id gpu_ids[] = {
	{ PCI_DEVICE(PCI_VENDOR_ID_NVIDIA, PCI_ANY_ID) },
	{ }
};

static struct pci_driver gpu_driver = {
	.name = "nvidia",
	.id_table = gpu_ids,
	.probe = gpu_probe,
	.remove = gpu_remove,
};

int sim_gpu_driver_register(void)
{
	return pci_register_driver(&gpu_driver);
}

void sim_gpu_driver_unregister(void)
{
	pci_unregister_driver(&gpu_driver);
}
