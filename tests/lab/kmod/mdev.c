// SPDX-License-Identifier: GPL-2.0-only
/*
 * The mdev driver: a vGPU as a mediated device of a PF (legacy) or of a VF, with
 * the attributes of NVIDIA's driver.
 */
#define pr_fmt(fmt) "[nvidia-vgpu-vfio] " fmt
#include <linux/module.h>
#include "sim.h"

/* ---- attributes ---- */

#define MDEV_ATTRIBUTE(name, what)							\
static ssize_t name##_show(struct device *dev, struct device_attribute *attr, char *buf) \
{											\
	struct sim_vgpu *vgpu = dev_get_drvdata(dev);					\
											\
	return sim_##what##_show(vgpu->board, &vgpu->mdev, buf);			\
}											\
static ssize_t name##_store(struct device *dev, struct device_attribute *attr,		\
			    const char *buf, size_t count)				\
{											\
	struct sim_vgpu *vgpu = dev_get_drvdata(dev);					\
											\
	return sim_##what##_store(vgpu->board, &vgpu->mdev, buf, count);		\
}											\
static DEVICE_ATTR_RW(name)

MDEV_ATTRIBUTE(vgpu_params, params);
MDEV_ATTRIBUTE(placement_id, placement);
MDEV_ATTRIBUTE(gpu_instance_id, gi);

static ssize_t vm_name_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct sim_vgpu *vgpu = dev_get_drvdata(dev);
	ssize_t n;

	mutex_lock(&vgpu->board->lock);
	n = sysfs_emit(buf, "%s\n", vgpu->mdev->opener.vm_name);
	mutex_unlock(&vgpu->board->lock);
	return n;
}
static DEVICE_ATTR_RO(vm_name);

static struct attribute *nvidia_attrs[] = {
	&dev_attr_vgpu_params.attr,
	&dev_attr_vm_name.attr,
	&dev_attr_placement_id.attr,
	&dev_attr_gpu_instance_id.attr,
	NULL
};

static const struct attribute_group nvidia_group = {
	.name = "nvidia",
	.attrs = nvidia_attrs,
};

static const struct attribute_group *mdev_groups[] = {
	&nvidia_group,
	NULL
};

/* ---- the driver ---- */

static const struct sim_type_info *type_of(struct mdev_type *mtype)
{
	return container_of(mtype, struct sim_type, mdev)->info;
}

static struct sim_function *parent_of(struct mdev_type *mtype)
{
	return container_of(mtype->parent, struct sim_function, parent);
}

/* Whatever the reason of a refusal, NVIDIA's driver makes it EIO. */
static int mdev_probe(struct mdev_device *mdev)
{
	struct sim_function *fn = parent_of(mdev->type);
	struct sim_instance *instance = NULL;
	struct sim_board *b = fn->board;
	struct sim_vgpu *vgpu;
	int number = EIO;

	sim_fault_delay(b, SIM_FAULT_CREATE);
	if (!sim_fault_take(b, SIM_FAULT_CREATE, &number)) {
		mutex_lock(&b->lock);
		instance = sim_rm_create(b, type_of(mdev->type), fn->vf, dev_name(&mdev->dev));
		mutex_unlock(&b->lock);
	}
	if (!instance) {
		pr_err("%s: vGPU creation failed on %s: %d\n", dev_name(&mdev->dev),
		       pci_name(fn->pdev), -number);
		return -number;
	}
	vgpu = sim_vgpu_create(&mdev->dev, b, fn->vf, instance);
	if (!IS_ERR(vgpu)) {
		dev_set_drvdata(&mdev->dev, vgpu);
		return 0;
	}
	mutex_lock(&b->lock);
	sim_rm_destroy(instance);
	mutex_unlock(&b->lock);
	return PTR_ERR(vgpu);
}

static void mdev_remove(struct mdev_device *mdev)
{
	struct sim_vgpu *vgpu = dev_get_drvdata(&mdev->dev);
	struct sim_instance *instance = vgpu->mdev;
	struct sim_board *b = vgpu->board;

	sim_fault_delay(b, SIM_FAULT_REMOVE);
	sim_vgpu_destroy(vgpu);
	sim_rm_wait_plugin(b, instance);
	mutex_lock(&b->lock);
	sim_rm_destroy(instance);
	mutex_unlock(&b->lock);
}

static unsigned int mdev_available(struct mdev_type *mtype)
{
	struct sim_function *fn = parent_of(mtype);
	unsigned int n;

	mutex_lock(&fn->board->lock);
	/* A count cannot be an errno. */
	n = sim_fault_read(fn->board) ? 0 : sim_rm_listed(fn->board, type_of(mtype), fn->vf);
	mutex_unlock(&fn->board->lock);
	return n;
}

static ssize_t mdev_description(struct mdev_type *mtype, char *buf)
{
	const struct sim_type_info *t = type_of(mtype);

	return sysfs_emit(buf,
		"num_heads=%u, frl_config=%u, framebuffer=%uM, max_resolution=%s, max_instance=%u\n",
		t->heads, t->frl, t->fb_mib, t->resolution, t->max_instance);
}

struct mdev_driver sim_mdev_driver = {
	.device_api = VFIO_DEVICE_API_PCI_STRING,
	.probe = mdev_probe,
	.remove = mdev_remove,
	.get_available = mdev_available,
	.show_description = mdev_description,
	.driver = {
		.name = "nvidia-vgpu-vfio",
		.owner = THIS_MODULE,
		.mod_name = KBUILD_MODNAME,
		.dev_groups = mdev_groups,
	},
};

int sim_mdev_driver_register(void)
{
	return mdev_register_driver(&sim_mdev_driver);
}

void sim_mdev_driver_unregister(void)
{
	mdev_unregister_driver(&sim_mdev_driver);
}
