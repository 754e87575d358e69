// SPDX-License-Identifier: GPL-2.0-only
/*
 * The host driver: binds to PFs and VFs under the name "nvidia" (which makes the
 * type folders "nvidia-<id>"). Functions with mdevs become their parents as soon
 * as the types are loaded; a VF of the vendor-specific framework is a VFIO device.
 * What the resource manager knows stays with the board while nothing is bound.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt
#include <linux/module.h>
#include <linux/slab.h>
#include "sim.h"

static LIST_HEAD(functions);
static DEFINE_MUTEX(functions_lock);	/* and whether their parents are registered */

/* ---- mdev parents ---- */

static bool has_mdevs(const struct sim_function *fn)
{
	return fn->board->model->vfs ? fn->vf >= 0 && !sim_vendor_vfio : fn->vf < 0;
}

static int parent_prepare(struct sim_function *fn)
{
	const struct sim_model *model = fn->board->model;
	unsigned int i;

	fn->types = kvcalloc(model->nr_types, sizeof(*fn->types), GFP_KERNEL);
	fn->mdev_types = kcalloc(model->nr_types, sizeof(*fn->mdev_types), GFP_KERNEL);
	if (!fn->types || !fn->mdev_types)
		return -ENOMEM;
	for (i = 0; i < model->nr_types; i++) {
		fn->types[i].info = &model->types[i];
		fn->types[i].mdev.sysfs_name = model->types[i].sysfs_name;
		fn->types[i].mdev.pretty_name = model->types[i].name;
		fn->mdev_types[i] = &fn->types[i].mdev;
	}
	return 0;
}

/* With functions_lock held. */
static int parent_register(struct sim_function *fn)
{
	int ret;

	if (!has_mdevs(fn) || fn->parent_registered || !sim_types_loaded())
		return 0;
	ret = mdev_register_parent(&fn->parent, &fn->pdev->dev, &sim_mdev_driver,
				   fn->mdev_types, fn->board->model->nr_types);
	if (ret)
		return ret;
	fn->parent_registered = true;
	/* libvirt looked at the device when it appeared; make it look again. */
	kobject_uevent(&fn->pdev->dev.kobj, KOBJ_CHANGE);
	return 0;
}

void sim_gpu_types_loaded(void)
{
	struct sim_function *fn;
	int ret;

	mutex_lock(&functions_lock);
	list_for_each_entry(fn, &functions, node) {
		ret = parent_register(fn);
		if (ret)
			pr_err("%s: no mdev parent: %d\n", pci_name(fn->pdev), ret);
	}
	mutex_unlock(&functions_lock);
}

/* ---- the PCI driver ---- */

static void function_free(struct sim_function *fn)
{
	kvfree(fn->types);
	kfree(fn->mdev_types);
	kfree(fn);
}

static int gpu_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct sim_board *board = sim_board_of(pdev);
	struct sim_function *fn;
	int ret = 0;

	if (!board)
		return -ENODEV;
	fn = kzalloc(sizeof(*fn), GFP_KERNEL);
	if (!fn)
		return -ENOMEM;
	fn->board = board;
	fn->pdev = pdev;
	fn->vf = pdev->is_virtfn ? (int)(pdev->devfn - board->devfn) - SIM_VF_OFFSET : -1;
	pci_set_drvdata(pdev, fn);
	if (has_mdevs(fn))
		ret = parent_prepare(fn);
	else if (fn->vf >= 0)
		ret = sim_vf_bind(fn);
	if (ret) {
		function_free(fn);
		return ret;
	}
	if (fn->vf < 0) {
		sim_rm_set_bound(board, true);
		sim_proc_board_add(board);
	}
	mutex_lock(&functions_lock);
	ret = parent_register(fn);
	if (!ret)
		list_add_tail(&fn->node, &functions);
	mutex_unlock(&functions_lock);
	if (!ret)
		return 0;
	if (fn->vf < 0) {
		sim_proc_board_remove(board);
		sim_rm_set_bound(board, false);
	}
	function_free(fn);
	return ret;
}

/* Returns when the last vGPU is closed, which may have to wait for its user. */
static void gpu_remove(struct pci_dev *pdev)
{
	struct sim_function *fn = pci_get_drvdata(pdev);

	mutex_lock(&functions_lock);
	list_del(&fn->node);
	mutex_unlock(&functions_lock);
	if (fn->parent_registered)
		mdev_unregister_parent(&fn->parent);
	if (fn->vf < 0) {
		sim_proc_board_remove(fn->board);
		sim_rm_set_bound(fn->board, false);
	} else if (!has_mdevs(fn)) {
		sim_vf_unbind(fn);
	}
	function_free(fn);
}

/*
 * No MODULE_DEVICE_TABLE: the module is loaded by name, never because a machine
 * has such a board. No sriov_configure, as NVIDIA's: only another driver can make
 * VFs.
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
	/* Should a VF have an IOMMU group, it is VFIO's. */
	.driver_managed_dma = true,
};

/* ---- VFs appear and disappear, whatever they are bound to ---- */

static int function_changed(struct notifier_block *nb, unsigned long action, void *data)
{
	struct pci_dev *pdev = to_pci_dev(data);
	struct sim_board *board;
	unsigned int vf;

	/*
	 * Taken away by hand, with PCI's lock held: the core would leave the VFs behind
	 * without a PF, and crash when the PF is found again.
	 */
	if (action == BUS_NOTIFY_DEL_DEVICE && pdev->is_physfn && sim_board_of(pdev))
		pci_disable_sriov(pdev);
	if (action != BUS_NOTIFY_ADD_DEVICE && action != BUS_NOTIFY_REMOVED_DEVICE)
		return NOTIFY_DONE;
	board = pdev->is_virtfn ? sim_board_of(pdev) : NULL;
	if (!board)
		return NOTIFY_DONE;
	vf = pdev->devfn - board->devfn - SIM_VF_OFFSET;
	if (action == BUS_NOTIFY_ADD_DEVICE)
		sim_rm_vf_added(board, vf);
	else
		sim_rm_vf_removed(board, vf);
	return NOTIFY_OK;
}

static struct notifier_block function_notifier = { .notifier_call = function_changed };

int sim_gpu_driver_register(void)
{
	int ret;

	ret = bus_register_notifier(&pci_bus_type, &function_notifier);
	if (ret)
		return ret;
	ret = pci_register_driver(&gpu_driver);
	if (ret)
		bus_unregister_notifier(&pci_bus_type, &function_notifier);
	return ret;
}

void sim_gpu_driver_unregister(void)
{
	pci_unregister_driver(&gpu_driver);
	bus_unregister_notifier(&pci_bus_type, &function_notifier);
}
