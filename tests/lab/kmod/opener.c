// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who opens a vGPU: NVIDIA's manager takes UUID and name of a VM from the command
 * line of its QEMU.
 */
#include <linux/ctype.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include "sim.h"

#define COMMAND_LINE_MAX	(256 * 1024)

/* "guest=NAME,debug-threads=on", where a comma in the name is doubled; or NAME alone. */
static void read_name(struct sim_opener *opener, const char *text)
{
	size_t n = 0;

	if (!strncmp(text, "guest=", 6))
		text += 6;
	for (; *text && n < sizeof(opener->vm_name) - 1; text++) {
		if (*text == ',' && *++text != ',')
			break;
		/* The name is one word of a line in what /dev/nvidiactl answers. */
		opener->vm_name[n++] = iscntrl(*text) ? '?' : *text;
	}
	opener->vm_name[n] = '\0';
}

void sim_opener_read(struct sim_opener *opener)
{
	struct mm_struct *mm = current->mm;
	const char *arg, *next;
	unsigned long start;
	size_t size;
	char *line;

	memset(opener, 0, sizeof(*opener));
	opener->pid = task_tgid_nr(current);
	if (!mm)
		return;
	spin_lock(&mm->arg_lock);
	start = mm->arg_start;
	size = min_t(unsigned long, mm->arg_end - start, COMMAND_LINE_MAX);
	spin_unlock(&mm->arg_lock);
	line = kvmalloc(size + 1, GFP_KERNEL);
	if (!line)
		return;
	size -= copy_from_user(line, (void __user *)start, size);
	line[size] = '\0';
	for (arg = line; arg < line + size; arg = next) {
		next = arg + strlen(arg) + 1;
		if (next >= line + size)
			break;
		if (!strcmp(arg, "-uuid") && uuid_is_valid(next))
			strscpy(opener->vm_uuid, next, sizeof(opener->vm_uuid));
		else if (!strcmp(arg, "-name"))
			read_name(opener, next);
	}
	kvfree(line);
}
