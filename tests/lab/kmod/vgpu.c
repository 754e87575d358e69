// SPDX-License-Identifier: GPL-2.0-only
/*
 * The VFIO PCI device of a vGPU, of an mdev or of a VF. It has a configuration
 * space and a reset, no BARs and no interrupts; that is what QEMU needs to start
 * with it.
 */
#define pr_fmt(fmt) "[nvidia-vgpu-vfio] " fmt
#include <linux/module.h>
#include <linux/random.h>
#include <linux/sched/signal.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include "sim.h"

static struct sim_vgpu *vgpu_of(struct vfio_device *vdev)
{
	return container_of(vdev, struct sim_vgpu, vdev);
}

/* With the board's lock held. A VF has one only while it has a type. */
struct sim_instance *sim_vgpu_instance(struct sim_vgpu *vgpu)
{
	return vgpu->vf >= 0 ? vgpu->board->vfs[vgpu->vf].instance : vgpu->mdev;
}

/* Another vGPU has another frame buffer. */
void sim_vgpu_fresh(struct sim_vgpu *vgpu)
{
	mutex_lock(&vgpu->lock);
	get_random_bytes(vgpu->framebuffer, sizeof(vgpu->framebuffer));
	mutex_unlock(&vgpu->lock);
}

static void config_power_on(struct sim_vgpu *vgpu)
{
	const struct sim_model *model = vgpu->board->model;
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
	struct sim_board *b = vgpu->board;
	struct sim_instance *instance;
	struct sim_opener opener;
	int number, ret;

	sim_fault_delay(b, SIM_FAULT_OPEN);
	if (sim_fault_take(b, SIM_FAULT_OPEN, &number))
		return -number;
	sim_opener_read(&opener);
	mutex_lock(&vgpu->lock);
	mutex_lock(&b->lock);
	instance = sim_vgpu_instance(vgpu);
	if (instance) {
		ret = sim_rm_open(instance, &opener);
	} else {
		pr_err("%s: current_vgpu_type of VF not configured\n", dev_name(vdev->dev));
		ret = -ENODEV;
	}
	if (!ret)
		vgpu->type = instance->type;
	mutex_unlock(&b->lock);
	mutex_unlock(&vgpu->lock);
	return ret;
}

/* Mostly from the exit of the process that had it open. */
static void vgpu_close(struct vfio_device *vdev)
{
	struct sim_vgpu *vgpu = vgpu_of(vdev);
	struct sim_board *b = vgpu->board;
	bool killed = current->flags & PF_EXITING && current->signal->group_exit_code == SIGKILL;

	mutex_lock(&vgpu->lock);
	config_power_on(vgpu);
	sim_migration_reset(vgpu);
	mutex_lock(&b->lock);
	sim_rm_close(sim_vgpu_instance(vgpu), killed);
	mutex_unlock(&b->lock);
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

/* ---- making one ---- */

/*
 * A function of a software bus has no IOMMU, unless the machine's covers it: VFIO
 * then makes it a group as for an mdev.
 */
static int vgpu_register(struct sim_vgpu *vgpu)
{
	struct iommu_group *group = iommu_group_get(vgpu->vdev.dev);

	if (!group)
		return vfio_register_emulated_iommu_dev(&vgpu->vdev);
	iommu_group_put(group);
	return vfio_register_group_dev(&vgpu->vdev);
}

/* @mdev: the instance, of an mdev; else NULL, and @vf is the VF. */
struct sim_vgpu *sim_vgpu_create(struct device *dev, struct sim_board *board, int vf,
				 struct sim_instance *mdev)
{
	struct sim_vgpu *vgpu;
	int ret;

	vgpu = vfio_alloc_device(sim_vgpu, vdev, dev, &vgpu_ops);
	if (IS_ERR(vgpu))
		return vgpu;
	vgpu->board = board;
	vgpu->vf = mdev ? -1 : vf;
	vgpu->mdev = mdev;
	config_power_on(vgpu);
	ret = vgpu_register(vgpu);
	if (ret) {
		vfio_put_device(&vgpu->vdev);
		return ERR_PTR(ret);
	}
	sim_debug_vgpu_add(vgpu);
	return vgpu;
}

/* Waits until no process has the device open. */
void sim_vgpu_destroy(struct sim_vgpu *vgpu)
{
	vfio_unregister_group_dev(&vgpu->vdev);
	sim_debug_vgpu_remove(vgpu);
	vfio_put_device(&vgpu->vdev);
}
