// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/nvidia-vgpuctl, for the services of the host: nvidia-vgpud loads the type
 * table, nvidia-vgpu-mgr runs the plugins. The manager is whoever has the file
 * open after writing "manager"; it reads what begins and ends, a line each.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/wait.h>
#include "sim.h"

static bool need_vgpud = true;
module_param(need_vgpud, bool, 0444);
MODULE_PARM_DESC(need_vgpud, "no vGPU types until nvidia-vgpud has loaded them (default Y)");

static bool need_manager = true;
module_param(need_manager, bool, 0444);
MODULE_PARM_DESC(need_manager, "no vGPU can be opened without nvidia-vgpu-mgr (default Y)");

/* A manager that does not read loses what is newer. */
#define EVENTS_MAX	1024
#define EVENT_LENGTH	64

struct event {
	struct list_head node;
	unsigned int length, taken;
	char line[EVENT_LENGTH];
};

static bool loaded;
static DEFINE_SPINLOCK(manager_lock);	/* of what follows */
static struct file *manager;
static LIST_HEAD(events);
static unsigned int nr_events;
static DECLARE_WAIT_QUEUE_HEAD(event_wait);

bool sim_types_loaded(void)
{
	return READ_ONCE(loaded) || !need_vgpud;
}

bool sim_manager_runs(void)
{
	return READ_ONCE(manager) || !need_manager;
}

void sim_manager_event(const char *verb, const char *what)
{
	struct event *e = kmalloc(sizeof(*e), GFP_KERNEL);

	if (!e)
		return;
	e->taken = 0;
	e->length = scnprintf(e->line, sizeof(e->line), "%s %s\n", verb, what);
	spin_lock(&manager_lock);
	if (manager && nr_events < EVENTS_MAX) {
		list_add_tail(&e->node, &events);
		nr_events++;
		e = NULL;
	}
	spin_unlock(&manager_lock);
	kfree(e);
	wake_up_interruptible(&event_wait);
}

/*
 * Copies what is left of the oldest event, as much as there is room for: shells
 * read byte by byte.
 */
static size_t event_take(struct file *file, char *text, size_t room)
{
	struct event *e, *done = NULL;
	size_t n = 0;

	spin_lock(&manager_lock);
	if (manager == file && !list_empty(&events)) {
		e = list_first_entry(&events, struct event, node);
		n = min_t(size_t, room, e->length - e->taken);
		memcpy(text, e->line + e->taken, n);
		e->taken += n;
		if (e->taken == e->length) {
			list_del(&e->node);
			nr_events--;
			done = e;
		}
	}
	spin_unlock(&manager_lock);
	kfree(done);
	return n;
}

static ssize_t services_read(struct file *file, char __user *buf, size_t count, loff_t *pos)
{
	char text[EVENT_LENGTH];
	size_t n;
	int ret;

	if (READ_ONCE(manager) != file)
		return -EPERM;
	if (!count)
		return 0;
	while (!(n = event_take(file, text, min(count, sizeof(text))))) {
		if (file->f_flags & O_NONBLOCK)
			return -EAGAIN;
		ret = wait_event_interruptible(event_wait, !list_empty_careful(&events));
		if (ret)
			return ret;
	}
	return copy_to_user(buf, text, n) ? -EFAULT : n;
}

static __poll_t services_poll(struct file *file, poll_table *wait)
{
	poll_wait(file, &event_wait, wait);
	return EPOLLOUT | (list_empty_careful(&events) ? 0 : EPOLLIN | EPOLLRDNORM);
}

static int become_manager(struct file *file)
{
	int ret = 0;

	spin_lock(&manager_lock);
	if (!manager)
		WRITE_ONCE(manager, file);
	else if (manager != file)
		ret = -EBUSY;
	spin_unlock(&manager_lock);
	return ret;
}

static ssize_t services_write(struct file *file, const char __user *buf, size_t count,
			      loff_t *pos)
{
	char text[32], *command;
	int ret = 0;

	if (count >= sizeof(text))
		return -EINVAL;
	if (copy_from_user(text, buf, count))
		return -EFAULT;
	text[count] = '\0';
	command = strim(text);
	if (!strcmp(command, "load-types")) {
		WRITE_ONCE(loaded, true);
		sim_gpu_types_loaded();
	} else if (!strcmp(command, "manager")) {
		ret = become_manager(file);
	} else {
		ret = -EINVAL;
	}
	return ret ?: count;
}

static int services_release(struct inode *inode, struct file *file)
{
	struct event *e, *next;
	LIST_HEAD(unread);

	spin_lock(&manager_lock);
	if (manager == file) {
		WRITE_ONCE(manager, NULL);
		list_splice_init(&events, &unread);
		nr_events = 0;
	}
	spin_unlock(&manager_lock);
	list_for_each_entry_safe(e, next, &unread, node)
		kfree(e);
	return 0;
}

static const struct file_operations services_fops = {
	.owner = THIS_MODULE,
	.open = nonseekable_open,
	.read = services_read,
	.write = services_write,
	.poll = services_poll,
	.release = services_release,
};

static struct miscdevice services_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "nvidia-vgpuctl",
	.mode = 0600,
	.fops = &services_fops,
};

int sim_services_init(void)
{
	return misc_register(&services_device);
}

void sim_services_exit(void)
{
	misc_deregister(&services_device);
}
