// SPDX-License-Identifier: GPL-2.0-only
/*
 * VFIO migration protocol v2, STOP_COPY with P2P: stop, hand out a few KiB of
 * state, and the way back to it. P2P is offered because QEMU migrates a VM with two
 * such devices only then; a device that never does DMA is in that state anyway.
 * For the same reason dirty page logging has nothing to report.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include "sim.h"

static bool migration = true;
module_param(migration, bool, 0444);
MODULE_PARM_DESC(migration, "vGPUs can be saved and migrated (default Y)");

#define STATE_MAGIC	0x55504756	/* "VGPU" */
#define STATE_VERSION	2

/* What travels. Both ends are little endian and the same module. */
struct sim_state {
	__le32 magic;
	__le32 version;
	char type[64];
	u8 config[PCI_CFG_SPACE_SIZE];
	char params[SIM_PARAMS_MAX + 1];
	u8 framebuffer[SIM_FRAMEBUFFER];
} __packed;

/* One transfer; owned by its file, which user space may keep for longer. */
struct sim_migration {
	struct file *file;
	const struct sim_type_info *type;
	struct mutex lock;	/* of the two below */
	bool dead;		/* the device has left the transfer's state */
	size_t done;		/* bytes received */
	struct sim_state state;
};

static int transfer_release(struct inode *inode, struct file *file)
{
	struct sim_migration *m = file->private_data;

	mutex_destroy(&m->lock);
	kfree(m);
	return 0;
}

static ssize_t transfer_read(struct file *file, char __user *buf, size_t count, loff_t *pos)
{
	struct sim_migration *m = file->private_data;
	ssize_t ret;

	/* A stream: the position is the file's own. */
	if (pos)
		return -ESPIPE;
	mutex_lock(&m->lock);
	if (m->dead)
		ret = -ENODEV;
	else
		ret = simple_read_from_buffer(buf, count, &file->f_pos, &m->state,
					      sizeof(m->state));
	mutex_unlock(&m->lock);
	return ret;
}

/*
 * A vGPU takes over only from one of its own type. Refused as soon as that is
 * known: QEMU fails a migration over a failing write, but not over the failing
 * state change at its end.
 */
static bool state_acceptable(const struct sim_migration *m)
{
	const struct sim_state *s = &m->state;

	if (m->done < offsetof(struct sim_state, config))
		return true;
	return le32_to_cpu(s->magic) == STATE_MAGIC && le32_to_cpu(s->version) == STATE_VERSION &&
	       !strncmp(s->type, m->type->name, sizeof(s->type));
}

static ssize_t transfer_write(struct file *file, const char __user *buf, size_t count,
			      loff_t *pos)
{
	struct sim_migration *m = file->private_data;
	ssize_t ret = count;

	if (pos)
		return -ESPIPE;
	mutex_lock(&m->lock);
	if (m->dead) {
		ret = -ENODEV;
	} else if (count > sizeof(m->state) - m->done) {
		ret = -EFBIG;
	} else if (copy_from_user((u8 *)&m->state + m->done, buf, count)) {
		ret = -EFAULT;
	} else {
		m->done += count;
		if (!state_acceptable(m))
			ret = -EINVAL;
	}
	mutex_unlock(&m->lock);
	return ret;
}

static const struct file_operations saving_fops = {
	.owner = THIS_MODULE,
	.read = transfer_read,
	.release = transfer_release,
};

static const struct file_operations resuming_fops = {
	.owner = THIS_MODULE,
	.write = transfer_write,
	.release = transfer_release,
};

/* The caller gets one reference of the file, the device keeps the other. */
static struct sim_migration *transfer_open(struct sim_vgpu *vgpu,
					   const struct file_operations *fops, int flags)
{
	struct sim_migration *m = kzalloc(sizeof(*m), GFP_KERNEL_ACCOUNT);
	struct file *file;

	if (!m)
		return ERR_PTR(-ENOMEM);
	m->type = vgpu->type;
	mutex_init(&m->lock);
	file = anon_inode_getfile(SIM_NAME "-transfer", fops, m, flags);
	if (IS_ERR(file)) {
		kfree(m);
		return ERR_CAST(file);
	}
	m->file = file;
	stream_open(file_inode(file), file);
	get_file(file);
	return m;
}

static void transfer_close(struct sim_migration **slot)
{
	struct sim_migration *m = *slot;

	if (!m)
		return;
	*slot = NULL;
	mutex_lock(&m->lock);
	m->dead = true;
	mutex_unlock(&m->lock);
	fput(m->file);
}

static void state_save(struct sim_vgpu *vgpu, struct sim_state *s)
{
	struct sim_board *b = vgpu->board;

	s->magic = cpu_to_le32(STATE_MAGIC);
	s->version = cpu_to_le32(STATE_VERSION);
	strscpy(s->type, vgpu->type->name, sizeof(s->type));
	memcpy(s->config, vgpu->config, sizeof(s->config));
	mutex_lock(&b->lock);
	memcpy(s->params, sim_vgpu_instance(vgpu)->params, sizeof(s->params));
	mutex_unlock(&b->lock);
	memcpy(s->framebuffer, vgpu->framebuffer, sizeof(s->framebuffer));
}

static int state_load(struct sim_vgpu *vgpu, struct sim_migration *m)
{
	struct sim_board *b = vgpu->board;
	struct sim_state *s = &m->state;
	int ret = -EINVAL;

	mutex_lock(&m->lock);
	if (m->done == sizeof(*s) && state_acceptable(m)) {
		memcpy(vgpu->config, s->config, sizeof(vgpu->config));
		s->params[SIM_PARAMS_MAX] = '\0';
		mutex_lock(&b->lock);
		memcpy(sim_vgpu_instance(vgpu)->params, s->params, sizeof(s->params));
		mutex_unlock(&b->lock);
		memcpy(vgpu->framebuffer, s->framebuffer, sizeof(vgpu->framebuffer));
		ret = 0;
	}
	mutex_unlock(&m->lock);
	return ret;
}

/* One arc of the state machine; vfio_mig_get_next_state() only asks for these. */
static struct file *state_step(struct sim_vgpu *vgpu, enum vfio_device_mig_state next)
{
	enum vfio_device_mig_state cur = vgpu->state;
	struct sim_migration *m;
	int ret;

	if (cur == VFIO_DEVICE_STATE_STOP && next == VFIO_DEVICE_STATE_STOP_COPY) {
		m = transfer_open(vgpu, &saving_fops, O_RDONLY);
		if (IS_ERR(m))
			return ERR_CAST(m);
		state_save(vgpu, &m->state);
		vgpu->saving = m;
		return m->file;
	}
	if (cur == VFIO_DEVICE_STATE_STOP && next == VFIO_DEVICE_STATE_RESUMING) {
		m = transfer_open(vgpu, &resuming_fops, O_WRONLY);
		if (IS_ERR(m))
			return ERR_CAST(m);
		vgpu->resuming = m;
		return m->file;
	}
	if (cur == VFIO_DEVICE_STATE_STOP_COPY && next == VFIO_DEVICE_STATE_STOP) {
		transfer_close(&vgpu->saving);
		return NULL;
	}
	if (cur == VFIO_DEVICE_STATE_RESUMING && next == VFIO_DEVICE_STATE_STOP) {
		ret = state_load(vgpu, vgpu->resuming);
		if (ret)
			return ERR_PTR(ret);
		transfer_close(&vgpu->resuming);
		return NULL;
	}
	/* RUNNING, RUNNING_P2P and STOP: there is no engine to stop or start. */
	return NULL;
}

static struct file *set_state(struct vfio_device *vdev, enum vfio_device_mig_state wanted)
{
	struct sim_vgpu *vgpu = container_of(vdev, struct sim_vgpu, vdev);
	enum vfio_device_mig_state next;
	struct file *file = NULL;
	int ret;

	mutex_lock(&vgpu->lock);
	while (vgpu->state != wanted) {
		ret = vfio_mig_get_next_state(vdev, vgpu->state, wanted, &next);
		if (ret) {
			file = ERR_PTR(ret);
			break;
		}
		file = state_step(vgpu, next);
		if (IS_ERR(file))
			break;
		vgpu->state = next;
		/* A file is handed out only where the walk ends. */
		if (WARN_ON(file && next != wanted)) {
			fput(file);
			file = ERR_PTR(-EINVAL);
			break;
		}
	}
	mutex_unlock(&vgpu->lock);
	return file;
}

static int get_state(struct vfio_device *vdev, enum vfio_device_mig_state *state)
{
	struct sim_vgpu *vgpu = container_of(vdev, struct sim_vgpu, vdev);

	mutex_lock(&vgpu->lock);
	*state = vgpu->state;
	mutex_unlock(&vgpu->lock);
	return 0;
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
static int get_data_size(struct vfio_device *vdev, unsigned long *length)
{
	*length = sizeof(struct sim_state);
	return 0;
}
#endif

static const struct vfio_migration_ops migration_ops = {
	.migration_set_state = set_state,
	.migration_get_state = get_state,
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
	.migration_get_data_size = get_data_size,
#endif
};

static int log_start(struct vfio_device *vdev, struct rb_root_cached *ranges, u32 nnodes,
		     u64 *page_size)
{
	struct sim_vgpu *vgpu = container_of(vdev, struct sim_vgpu, vdev);
	int ret = 0;

	mutex_lock(&vgpu->lock);
	if (vgpu->dirty_logging)
		ret = -EINVAL;
	else
		vgpu->dirty_logging = true;
	mutex_unlock(&vgpu->lock);
	*page_size = PAGE_SIZE;
	return ret;
}

static int log_stop(struct vfio_device *vdev)
{
	struct sim_vgpu *vgpu = container_of(vdev, struct sim_vgpu, vdev);

	mutex_lock(&vgpu->lock);
	vgpu->dirty_logging = false;
	mutex_unlock(&vgpu->lock);
	return 0;
}

static int log_read_and_clear(struct vfio_device *vdev, unsigned long iova,
			      unsigned long length, struct iova_bitmap *dirty)
{
	struct sim_vgpu *vgpu = container_of(vdev, struct sim_vgpu, vdev);
	int ret;

	mutex_lock(&vgpu->lock);
	ret = vgpu->dirty_logging ? 0 : -EINVAL;
	mutex_unlock(&vgpu->lock);
	return ret;
}

static const struct vfio_log_ops log_ops = {
	.log_start = log_start,
	.log_stop = log_stop,
	.log_read_and_clear = log_read_and_clear,
};

/* Before the device is registered: VFIO looks at these once. */
void sim_migration_init(struct sim_vgpu *vgpu)
{
	vgpu->state = VFIO_DEVICE_STATE_RUNNING;
	if (!migration)
		return;
	vgpu->vdev.migration_flags = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P;
	vgpu->vdev.mig_ops = &migration_ops;
	vgpu->vdev.log_ops = &log_ops;
}

/* With the vGPU's lock held: after a reset, and when the last user is gone. */
void sim_migration_reset(struct sim_vgpu *vgpu)
{
	transfer_close(&vgpu->saving);
	transfer_close(&vgpu->resuming);
	vgpu->dirty_logging = false;
	vgpu->state = VFIO_DEVICE_STATE_RUNNING;
}
