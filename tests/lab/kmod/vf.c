// SPDX-License-Identifier: GPL-2.0-only
/*
 * The vendor-specific VFIO framework: a VF bound to "nvidia" is a VFIO device
 * itself, and becomes a vGPU by writing a type's id to nvidia/current_vgpu_type.
 */
#define pr_fmt(fmt) "[nvidia-vgpu-vfio] " fmt
#include <linux/delay.h>
#include <linux/jiffies.h>
#include <linux/module.h>
#include "sim.h"

#define PLUGIN_WAIT_MS	5000

static struct sim_function *function_of(struct device *dev)
{
	return dev_get_drvdata(dev);
}

#define VF_ATTRIBUTE(name, what)							\
static ssize_t name##_show(struct device *dev, struct device_attribute *attr, char *buf) \
{											\
	struct sim_function *fn = function_of(dev);					\
											\
	return sim_##what##_show(fn->board, &fn->board->vfs[fn->vf].instance, buf);	\
}											\
static ssize_t name##_store(struct device *dev, struct device_attribute *attr,		\
			    const char *buf, size_t count)				\
{											\
	struct sim_function *fn = function_of(dev);					\
											\
	return sim_##what##_store(fn->board, &fn->board->vfs[fn->vf].instance, buf, count); \
}											\
static DEVICE_ATTR_RW(name)

VF_ATTRIBUTE(vgpu_params, params);
VF_ATTRIBUTE(placement_id, placement);
VF_ATTRIBUTE(gpu_instance_id, gi);

static ssize_t creatable_vgpu_types_show(struct device *dev, struct device_attribute *attr,
					 char *buf)
{
	struct sim_function *fn = function_of(dev);
	struct sim_board *b = fn->board;
	unsigned int i;
	ssize_t n = 0;

	mutex_lock(&b->lock);
	n = sim_fault_read(b);
	if (n < 0)
		goto out;
	if (!sim_rfc || !b->vfs[fn->vf].instance)
		n = sysfs_emit(buf, "ID    : vGPU Name\n");
	for (i = 0; i < b->model->nr_types; i++) {
		const struct sim_type_info *type = &b->model->types[i];

		if (sim_rm_listed(b, type, fn->vf))
			n += sysfs_emit_at(buf, n, "%-5u : %s\n", type->id, type->name);
	}
out:
	mutex_unlock(&b->lock);
	return n;
}
static DEVICE_ATTR_RO(creatable_vgpu_types);

static ssize_t current_vgpu_type_show(struct device *dev, struct device_attribute *attr,
				      char *buf)
{
	struct sim_function *fn = function_of(dev);
	const struct sim_instance *i;
	ssize_t n;

	mutex_lock(&fn->board->lock);
	n = sim_fault_read(fn->board);
	i = fn->board->vfs[fn->vf].instance;
	if (!n)
		n = sysfs_emit(buf, "%u\n", i ? i->type->id : 0);
	mutex_unlock(&fn->board->lock);
	return n;
}

/* With the board's lock held, which is given up while the plugin has time to exit. */
static int release(struct sim_board *b, struct sim_vf *vf)
{
	unsigned long deadline = jiffies + msecs_to_jiffies(PLUGIN_WAIT_MS);

	for (;;) {
		if (!vf->instance)
			return sim_rfc ? 0 : -EPERM;
		if (vf->instance->open)
			return sim_rfc ? -EBUSY : -EPERM;
		if (sim_rfc || !sim_rm_plugin_exits(vf->instance))
			break;
		if (time_after_eq(jiffies, deadline))
			return -EBUSY;
		mutex_unlock(&b->lock);
		msleep(20);
		mutex_lock(&b->lock);
	}
	sim_rm_destroy(vf->instance);
	return 0;
}

static int assign(struct sim_board *b, int number, unsigned int id)
{
	const struct sim_type_info *type = sim_rm_type(b, id);
	struct sim_vf *vf = &b->vfs[number];
	int ret;

	if (vf->instance && !sim_rfc)
		return -EPERM;
	if (vf->instance) {
		ret = release(b, vf);
		if (ret)
			return ret;
	}
	if (type && sim_rm_create(b, type, number, NULL))
		return 0;
	return sim_rm_refusal(b, type);
}

static ssize_t current_vgpu_type_store(struct device *dev, struct device_attribute *attr,
				       const char *buf, size_t count)
{
	struct sim_function *fn = function_of(dev);
	struct sim_board *b = fn->board;
	unsigned int id;
	ssize_t ret;
	int failed;

	failed = kstrtouint(buf, 10, &id);
	if (failed)
		return failed;
	if (sim_fault_store(b, id ? SIM_FAULT_SET_TYPE : SIM_FAULT_RELEASE, count, &ret))
		return ret;
	if (!fn->vgpu) {
		pr_err("%s: vfio_pci_core_device not found\n", dev_name(dev));
		return -EINVAL;
	}
	mutex_lock(&b->lock);
	failed = id ? assign(b, fn->vf, id) : release(b, &b->vfs[fn->vf]);
	mutex_unlock(&b->lock);
	if (failed) {
		if (id)
			pr_err("%s: vGPU creation failed, type %u: %d\n", dev_name(dev), id,
			       failed);
		return failed;
	}
	if (id)
		sim_vgpu_fresh(fn->vgpu);
	return count;
}
static DEVICE_ATTR_RW(current_vgpu_type);

static struct attribute *nvidia_attrs[] = {
	&dev_attr_creatable_vgpu_types.attr,
	&dev_attr_current_vgpu_type.attr,
	&dev_attr_vgpu_params.attr,
	&dev_attr_placement_id.attr,
	&dev_attr_gpu_instance_id.attr,
	NULL
};

static const struct attribute_group nvidia_group = {
	.name = "nvidia",
	.attrs = nvidia_attrs,
};

static const struct attribute_group *vf_groups[] = {
	&nvidia_group,
	NULL
};

static void attributes_appear(struct work_struct *work)
{
	struct sim_function *fn = container_of(to_delayed_work(work), struct sim_function,
					       attributes);

	fn->has_attributes = !sysfs_create_groups(&fn->pdev->dev.kobj, vf_groups);
}

/*
 * The attributes come late and without an event, as NVIDIA's. A VF that was bound
 * before in this SR-IOV cycle gets them, but no VFIO device any more.
 */
int sim_vf_bind(struct sim_function *fn)
{
	struct sim_board *b = fn->board;
	unsigned int late = READ_ONCE(sim_attributes_ms);
	bool again;

	INIT_DELAYED_WORK(&fn->attributes, attributes_appear);
	mutex_lock(&b->lock);
	again = b->vfs[fn->vf].was_bound;
	mutex_unlock(&b->lock);
	if (!again) {
		fn->vgpu = sim_vgpu_create(&fn->pdev->dev, b, fn->vf, NULL);
		if (IS_ERR(fn->vgpu))
			return PTR_ERR(fn->vgpu);
		mutex_lock(&b->lock);
		b->vfs[fn->vf].was_bound = true;
		mutex_unlock(&b->lock);
	}
	if (late)
		schedule_delayed_work(&fn->attributes, msecs_to_jiffies(late));
	else
		attributes_appear(&fn->attributes.work);
	return 0;
}

void sim_vf_unbind(struct sim_function *fn)
{
	cancel_delayed_work_sync(&fn->attributes);
	if (fn->has_attributes)
		sysfs_remove_groups(&fn->pdev->dev.kobj, vf_groups);
	if (fn->vgpu)
		sim_vgpu_destroy(fn->vgpu);
}
