// SPDX-License-Identifier: GPL-2.0-only
/*
 * One vGPU: an mdev with the attributes of NVIDIA's driver, and the VFIO PCI
 * device behind it. The device has a configuration space and a reset, no BARs
 * and no interrupts; that is what QEMU needs to start with it.
 */
#define pr_fmt(fmt) "[nvidia-vgpu-vfio] " fmt
#include <linux/module.h>
#include <linux/random.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include "sim.h"

static struct sim_vgpu *vgpu_of(struct vfio_device *vdev)
{
	return container_of(vdev, struct sim_vgpu, vdev);
}

/* ---- the VFIO device ---- */

static void config_power_on(struct sim_vgpu *vgpu)
{
	const struct sim_model *model = vgpu->gpu->board->model;
	u8 *c = vgpu->config;

	memset(c, 0, sizeof(vgpu->config));
	c[PCI_VENDOR_ID] = PCI_VENDOR_ID_NVIDIA & 0xff;
	c[PCI_VENDOR_ID + 1] = PCI_VENDOR_ID_NVIDIA >> 8;
	c[PCI_DEVICE_ID] = model->device & 0xff;
	c[PCI_DEVICE_ID + 1] = model->device >> 8;
	c[PCI_REVISION_ID] = model->revision;
	c[PCI_CLASS_DEVICE] = PCI_CLASS_DISPLAY_3D & 0xff;
	c[PCI_CLASS_DEVICE + 1] = PCI_CLASS_DISPLAY_3D >> 8;
	c[PCI_SUBSYSTEM_VENDOR_ID] = PCI_VENDOR_ID_NVIDIA & 0xff;
	c[PCI_SUBSYSTEM_VENDOR_ID + 1] = PCI_VENDOR_ID_NVIDIA >> 8;
	c[PCI_SUBSYSTEM_ID] = model->subsystem & 0xff;
	c[PCI_SUBSYSTEM_ID + 1] = model->subsystem >> 8;
}

static u8 config_writable(loff_t where)
{
	switch (where) {
	case PCI_COMMAND:
		return PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	case PCI_COMMAND + 1:
		return PCI_COMMAND_INTX_DISABLE >> 8;
	case PCI_CACHE_LINE_SIZE:
	case PCI_LATENCY_TIMER:
	case PCI_INTERRUPT_LINE:
		return 0xff;
	default:
		return 0;
	}
}

static int vgpu_init(struct vfio_device *vdev)
{
	struct sim_vgpu *vgpu = vgpu_of(vdev);

	mutex_init(&vgpu->lock);
	get_random_bytes(vgpu->framebuffer, sizeof(vgpu->framebuffer));
	sim_migration_init(vgpu);
	return 0;
}

static void vgpu_release(struct vfio_device *vdev)
{
	mutex_destroy(&vgpu_of(vdev)->lock);
}

static int vgpu_open(struct vfio_device *vdev)
{
	struct sim_vgpu *vgpu = vgpu_of(vdev);

	mutex_lock(&vgpu->lock);
	vgpu->open = true;
	mutex_unlock(&vgpu->lock);
	return 0;
}

static void vgpu_close(struct vfio_device *vdev)
{
	struct sim_vgpu *vgpu = vgpu_of(vdev);

	mutex_lock(&vgpu->lock);
	vgpu->open = false;
	config_power_on(vgpu);
	sim_migration_reset(vgpu);
	mutex_unlock(&vgpu->lock);
}

static ssize_t vgpu_read(struct vfio_device *vdev, char __user *buf, size_t count, loff_t *ppos)
{
	struct sim_vgpu *vgpu = vgpu_of(vdev);
	u8 bytes[PCI_CFG_SPACE_SIZE];

	if (*ppos < 0 || *ppos >= sizeof(vgpu->config))
		return -EINVAL;
	count = min_t(size_t, count, sizeof(vgpu->config) - *ppos);
	mutex_lock(&vgpu->lock);
	memcpy(bytes, vgpu->config + *ppos, count);
	mutex_unlock(&vgpu->lock);
	if (copy_to_user(buf, bytes, count))
		return -EFAULT;
	*ppos += count;
	return count;
}

static ssize_t vgpu_write(struct vfio_device *vdev, const char __user *buf, size_t count,
			  loff_t *ppos)
{
	struct sim_vgpu *vgpu = vgpu_of(vdev);
	u8 bytes[PCI_CFG_SPACE_SIZE];
	size_t i;

	if (*ppos < 0 || *ppos >= sizeof(vgpu->config))
		return -EINVAL;
	count = min_t(size_t, count, sizeof(vgpu->config) - *ppos);
	if (copy_from_user(bytes, buf, count))
		return -EFAULT;
	mutex_lock(&vgpu->lock);
	for (i = 0; i < count; i++) {
		u8 bits = config_writable(*ppos + i);
		u8 *c = &vgpu->config[*ppos + i];

		*c = (*c & ~bits) | (bytes[i] & bits);
	}
	mutex_unlock(&vgpu->lock);
	*ppos += count;
	return count;
}

static long ioctl_device_info(void __user *arg)
{
	size_t minsz = offsetofend(struct vfio_device_info, num_irqs);
	struct vfio_device_info info = {};

	if (copy_from_user(&info, arg, minsz))
		return -EFAULT;
	if (info.argsz < minsz)
		return -EINVAL;
	info.flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET;
	info.num_regions = VFIO_PCI_NUM_REGIONS;
	info.num_irqs = VFIO_PCI_NUM_IRQS;
	return copy_to_user(arg, &info, minsz) ? -EFAULT : 0;
}

static long ioctl_region_info(void __user *arg)
{
	size_t minsz = offsetofend(struct vfio_region_info, offset);
	struct vfio_region_info info = {};

	if (copy_from_user(&info, arg, minsz))
		return -EFAULT;
	if (info.argsz < minsz || info.index >= VFIO_PCI_NUM_REGIONS)
		return -EINVAL;
	info.flags = 0;
	info.offset = 0;
	info.size = 0;
	if (info.index == VFIO_PCI_CONFIG_REGION_INDEX) {
		info.size = PCI_CFG_SPACE_SIZE;
		info.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
	}
	return copy_to_user(arg, &info, minsz) ? -EFAULT : 0;
}

static long ioctl_irq_info(void __user *arg)
{
	size_t minsz = offsetofend(struct vfio_irq_info, count);
	struct vfio_irq_info info = {};

	if (copy_from_user(&info, arg, minsz))
		return -EFAULT;
	if (info.argsz < minsz || info.index >= VFIO_PCI_NUM_IRQS)
		return -EINVAL;
	info.flags = 0;
	info.count = 0;
	return copy_to_user(arg, &info, minsz) ? -EFAULT : 0;
}

static long vgpu_ioctl(struct vfio_device *vdev, unsigned int cmd, unsigned long arg)
{
	struct sim_vgpu *vgpu = vgpu_of(vdev);

	switch (cmd) {
	case VFIO_DEVICE_GET_INFO:
		return ioctl_device_info((void __user *)arg);
	case VFIO_DEVICE_GET_REGION_INFO:
		return ioctl_region_info((void __user *)arg);
	case VFIO_DEVICE_GET_IRQ_INFO:
		return ioctl_irq_info((void __user *)arg);
	case VFIO_DEVICE_RESET:
		mutex_lock(&vgpu->lock);
		config_power_on(vgpu);
		/* uAPI: a reset brings the device back to RUNNING. */
		sim_migration_reset(vgpu);
		mutex_unlock(&vgpu->lock);
		return 0;
	default:
		return -ENOTTY;
	}
}

/* The device never does DMA, so it has nothing pinned that could go away. */
static void vgpu_dma_unmap(struct vfio_device *vdev, u64 iova, u64 length)
{
}

static const struct vfio_device_ops vgpu_ops = {
	.name = SIM_NAME,
	.init = vgpu_init,
	.release = vgpu_release,
	.open_device = vgpu_open,
	.close_device = vgpu_close,
	.read = vgpu_read,
	.write = vgpu_write,
	.ioctl = vgpu_ioctl,
	.dma_unmap = vgpu_dma_unmap,
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
	.bind_iommufd = vfio_iommufd_emulated_bind,
	.unbind_iommufd = vfio_iommufd_emulated_unbind,
	.attach_ioas = vfio_iommufd_emulated_attach_ioas,
#endif
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
	.detach_ioas = vfio_iommufd_emulated_detach_ioas,
#endif
};

/* ---- attributes of the mdev ---- */

static ssize_t vgpu_params_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct sim_vgpu *vgpu = dev_get_drvdata(dev);
	ssize_t n;

	mutex_lock(&vgpu->lock);
	n = sysfs_emit(buf, "%s\n", vgpu->params);
	mutex_unlock(&vgpu->lock);
	return n;
}

/*
 * As NVIDIA's driver: refused while a VM has the device, and the last byte of a
 * write is dropped unseen because it is taken to be the newline.
 */
static ssize_t vgpu_params_store(struct device *dev, struct device_attribute *attr,
				 const char *buf, size_t count)
{
	struct sim_vgpu *vgpu = dev_get_drvdata(dev);
	ssize_t ret = count;

	if (count > SIM_PARAMS_MAX)
		return -E2BIG;
	mutex_lock(&vgpu->lock);
	if (vgpu->open) {
		ret = -EPERM;
	} else if (count) {
		memcpy(vgpu->params, buf, count - 1);
		vgpu->params[count - 1] = '\0';
	}
	mutex_unlock(&vgpu->lock);
	return ret;
}
static DEVICE_ATTR_RW(vgpu_params);

static struct attribute *nvidia_attrs[] = {
	&dev_attr_vgpu_params.attr,
	NULL
};

static const struct attribute_group nvidia_group = {
	.name = "nvidia",
	.attrs = nvidia_attrs,
};

static const struct attribute_group *vgpu_groups[] = {
	&nvidia_group,
	NULL
};

/* ---- the mdev driver ---- */

static int vgpu_probe(struct mdev_device *mdev)
{
	struct sim_type *type = container_of(mdev->type, struct sim_type, mdev);
	struct sim_gpu *gpu = container_of(mdev->type->parent, struct sim_gpu, parent);
	struct sim_vgpu *vgpu;
	int number, ret;

	sim_fault_delay(gpu->board, SIM_FAULT_CREATE);
	if (sim_fault_take(gpu->board, SIM_FAULT_CREATE, &number))
		ret = -number;
	else
		ret = sim_gpu_take(gpu, type->info);
	if (ret) {
		pr_err("%s: vGPU creation failed on %s: %d\n", dev_name(&mdev->dev),
		       gpu->board->address, ret);
		return ret;
	}

	vgpu = vfio_alloc_device(sim_vgpu, vdev, &mdev->dev, &vgpu_ops);
	if (IS_ERR(vgpu)) {
		ret = PTR_ERR(vgpu);
		goto out_give;
	}
	vgpu->mdev = mdev;
	vgpu->gpu = gpu;
	vgpu->info = type->info;
	config_power_on(vgpu);
	/* Before registering: from then on it can be opened. */
	dev_set_drvdata(&mdev->dev, vgpu);
	ret = vfio_register_emulated_iommu_dev(&vgpu->vdev);
	if (ret)
		goto out_put;
	sim_faults_vgpu_add(vgpu);
	return 0;

out_put:
	vfio_put_device(&vgpu->vdev);
out_give:
	sim_gpu_give(gpu);
	return ret;
}

static void vgpu_remove(struct mdev_device *mdev)
{
	struct sim_vgpu *vgpu = dev_get_drvdata(&mdev->dev);
	struct sim_gpu *gpu = vgpu->gpu;

	sim_fault_delay(gpu->board, SIM_FAULT_REMOVE);
	/* Waits until no process has the device open. */
	vfio_unregister_group_dev(&vgpu->vdev);
	sim_faults_vgpu_remove(vgpu);
	vfio_put_device(&vgpu->vdev);
	sim_gpu_give(gpu);
}

static unsigned int vgpu_available(struct mdev_type *mtype)
{
	return sim_gpu_available(container_of(mtype->parent, struct sim_gpu, parent),
				 container_of(mtype, struct sim_type, mdev)->info);
}

static ssize_t vgpu_description(struct mdev_type *mtype, char *buf)
{
	const struct sim_type_info *t = container_of(mtype, struct sim_type, mdev)->info;

	return sysfs_emit(buf,
		"num_heads=%u, frl_config=%u, framebuffer=%uM, max_resolution=%s, max_instance=%u\n",
		t->heads, t->frl, t->fb_mib, t->resolution, t->max_instance);
}

struct mdev_driver sim_mdev_driver = {
	.device_api = VFIO_DEVICE_API_PCI_STRING,
	.probe = vgpu_probe,
	.remove = vgpu_remove,
	.get_available = vgpu_available,
	.show_description = vgpu_description,
	.driver = {
		.name = "nvidia-vgpu-vfio",
		.owner = THIS_MODULE,
		.mod_name = KBUILD_MODNAME,
		.dev_groups = vgpu_groups,
	},
};

int sim_vgpu_driver_register(void)
{
	return mdev_register_driver(&sim_mdev_driver);
}

void sim_vgpu_driver_unregister(void)
{
	mdev_unregister_driver(&sim_mdev_driver);
}
