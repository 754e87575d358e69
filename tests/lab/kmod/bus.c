// SPDX-License-Identifier: GPL-2.0-only
/*
 * Software PCI root buses. Each board has a bus of its own, so that its address
 * can be anything. Boards fall off their buses and come back, and so do VFs.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt
#include <linux/module.h>
#include <linux/nodemask.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include "sim.h"

static struct sim_board *all[SIM_MAX_BOARDS];
static unsigned int nr_boards;
static DEFINE_MUTEX(presence_lock);

struct sim_board *sim_board_get(unsigned int index)
{
	return index < nr_boards ? all[index] : NULL;
}

/* NULL for a device that is not ours: a real board must never be taken. */
struct sim_board *sim_board_of(struct pci_dev *pdev)
{
	unsigned int i;

	for (i = 0; i < nr_boards; i++)
		if (pdev->bus->ops == &sim_bus_ops && pdev->sysdata == &all[i]->sysdata)
			return all[i];
	return NULL;
}

struct sim_board *sim_board_find(const char *address)
{
	unsigned int i;

	for (i = 0; i < nr_boards; i++)
		if (!strcmp(all[i]->address, address))
			return all[i];
	return NULL;
}

void sim_vf_address(const struct sim_board *b, unsigned int vf, char *text, size_t size)
{
	unsigned int devfn = b->devfn + SIM_VF_OFFSET + vf;

	snprintf(text, size, "%04x:%02x:%02x.%x", b->domain, b->bus, PCI_SLOT(devfn),
		 PCI_FUNC(devfn));
}

/*
 * VFs do not go with their PF: the PCI core insists that they are gone before. As
 * in sriov_numvfs_store(), pci_lock_rescan_remove() is held.
 */
static void vfs_disable(struct pci_dev *pf)
{
	if (pf->is_physfn)
		pci_disable_sriov(pf);
}

/*
 * Waits for its user before PCI's lock is taken, so that only the writer waits. Nor
 * may a PF keep its driver: a write of sriov_numvfs takes the PF's lock first.
 */
static void function_release(struct sim_board *b, unsigned int devfn)
{
	struct pci_dev *pdev = pci_get_domain_bus_and_slot(b->domain, b->bus, devfn);

	if (pdev)
		device_release_driver(&pdev->dev);
	pci_dev_put(pdev);
}

/*
 * The board falls off the bus, or comes back. Like the real thing, falling off
 * ends only when nobody holds one of its vGPUs open any more.
 */
int sim_board_set_present(struct sim_board *b, bool present)
{
	struct pci_dev *pdev;
	unsigned int vf;

	mutex_lock(&presence_lock);
	if (present) {
		pci_lock_rescan_remove();
		if (!b->present)
			sim_config_power_on(b);
		WRITE_ONCE(b->present, true);
		/* Also where it was taken away by hand. */
		pci_rescan_bus(b->root);
		pci_unlock_rescan_remove();
	} else if (b->present) {
		for (vf = 0; vf < b->model->vfs; vf++)
			function_release(b, b->devfn + SIM_VF_OFFSET + vf);
		function_release(b, b->devfn);
		pci_lock_rescan_remove();
		pdev = pci_get_domain_bus_and_slot(b->domain, b->bus, b->devfn);
		if (pdev) {
			vfs_disable(pdev);
			pci_stop_and_remove_bus_device(pdev);
		}
		WRITE_ONCE(b->present, false);
		pci_unlock_rescan_remove();
		pci_dev_put(pdev);
	}
	mutex_unlock(&presence_lock);
	return 0;
}

/*
 * One VF falls off the bus. What the PCI core does when it takes a VF away is done
 * here, as it offers that to nobody: it would otherwise fail on the leftover
 * link in the next SR-IOV cycle.
 */
int sim_board_vanish(struct sim_board *b, unsigned int vf)
{
	struct pci_dev *pf, *pdev = NULL;
	char link[16];
	int ret = -ENODEV;

	if (vf >= b->model->vfs)
		return -EINVAL;
	mutex_lock(&presence_lock);
	function_release(b, b->devfn + SIM_VF_OFFSET + vf);
	pci_lock_rescan_remove();
	pf = pci_get_domain_bus_and_slot(b->domain, b->bus, b->devfn);
	if (!pf)
		goto out;
	pdev = pci_get_domain_bus_and_slot(b->domain, b->bus, b->devfn + SIM_VF_OFFSET + vf);
	if (pdev) {
		snprintf(link, sizeof(link), "virtfn%u", vf);
		sysfs_remove_link(&pf->dev.kobj, link);
		pci_stop_and_remove_bus_device(pdev);
		WRITE_ONCE(b->vfs[vf].vanished, true);
		pci_dev_put(pdev);
		/* That of the VF, and ours. */
		pci_dev_put(pf);
		ret = 0;
	}
	pci_dev_put(pf);
out:
	pci_unlock_rescan_remove();
	mutex_unlock(&presence_lock);
	return ret;
}

static const struct sim_model *model_find(const char *name)
{
	unsigned int i;

	for (i = 0; i < sim_nr_models; i++)
		if (!strcmp(sim_models[i].model, name))
			return &sim_models[i];
	return NULL;
}

static void board_free(struct sim_board *b)
{
	kvfree(b->vfs);
	kvfree(b);
}

/* "t4@0000:3b:00.0/1" */
static struct sim_board *board_parse(char *text)
{
	unsigned int domain, bus, slot, function, i;
	const struct sim_model *model;
	char *at, *slash;
	struct sim_board *b;
	int node = NUMA_NO_NODE, end = 0;

	at = strchr(text, '@');
	if (!at)
		return ERR_PTR(-EINVAL);
	*at++ = '\0';
	slash = strchr(at, '/');
	if (slash) {
		*slash++ = '\0';
		if (kstrtoint(slash, 10, &node) || node < NUMA_NO_NODE || node > U8_MAX)
			return ERR_PTR(-EINVAL);
	}
	if (sscanf(at, "%4x:%2x:%2x.%1x%n", &domain, &bus, &slot, &function, &end) != 4 ||
	    at[end] || domain > 0xffff || bus > 0xff || slot > 31 || function)
		return ERR_PTR(-EINVAL);
	/* Not EEXIST: modprobe takes that for "loaded already". */
	for (i = 0; i < nr_boards; i++)
		if (all[i]->domain == domain && all[i]->bus == bus)
			return ERR_PTR(-EINVAL);
	if (node != NUMA_NO_NODE && (node >= MAX_NUMNODES || !node_online(node))) {
		pr_warn("%s: no NUMA node %d here, board is on none\n", at, node);
		node = NUMA_NO_NODE;
	}

	model = model_find(text);
	if (!model) {
		pr_err("no model '%s'\n", text);
		return ERR_PTR(-EINVAL);
	}
	/* VFs further on would be on the next bus. */
	if (model->vfs && PCI_DEVFN(slot, 0) + SIM_VF_OFFSET + model->vfs > 256) {
		pr_err("%s: no room for %u VFs after this slot\n", at, model->vfs);
		return ERR_PTR(-EINVAL);
	}
	b = kvzalloc(sizeof(*b), GFP_KERNEL);
	if (!b)
		return ERR_PTR(-ENOMEM);
	b->model = model;
	b->vfs = kvcalloc(model->vfs, sizeof(*b->vfs), GFP_KERNEL);
	if (model->vfs && !b->vfs) {
		board_free(b);
		return ERR_PTR(-ENOMEM);
	}
	b->domain = domain;
	b->bus = bus;
	b->devfn = PCI_DEVFN(slot, 0);
	b->node = node;
	b->present = true;
	b->sysdata.domain = domain;
	b->sysdata.node = node;
	b->bus_range = (struct resource) {
		.name = SIM_NAME, .start = bus, .end = bus, .flags = IORESOURCE_BUS,
	};
	sim_faults_init(&b->faults);
	mutex_init(&b->lock);
	INIT_LIST_HEAD(&b->instances);
	sim_modes_reset(b);
	snprintf(b->address, sizeof(b->address), "%04x:%02x:%02x.0", domain, bus, slot);
	b->mig = b->mig_pending = sim_scratch_load(b);
	sim_config_power_on(b);
	return b;
}

static int board_plug_in(struct sim_board *b)
{
	LIST_HEAD(resources);

	/* The PCI core would happily put a second bus over an existing one. */
	if (pci_find_bus(b->domain, b->bus)) {
		pr_err("%s: this machine has a bus %04x:%02x\n", b->address, b->domain, b->bus);
		return -EBUSY;
	}
	pci_add_resource(&resources, &b->bus_range);
	b->root = pci_create_root_bus(NULL, b->bus, &sim_bus_ops, &b->sysdata, &resources);
	if (!b->root) {
		pci_free_resource_list(&resources);
		return -ENODEV;
	}
	sim_debug_board_add(b);
	pci_scan_child_bus(b->root);
	pci_bus_add_devices(b->root);
	return 0;
}

int sim_buses_create(const char *boards)
{
	char *list, *rest, *text;
	struct sim_board *b;
	int ret = 0;

	list = kstrdup(boards, GFP_KERNEL);
	if (!list)
		return -ENOMEM;
	rest = list;
	while (!ret && (text = strsep(&rest, ",")) != NULL) {
		if (!*text)
			continue;
		if (nr_boards == SIM_MAX_BOARDS) {
			pr_err("boards: more than %d\n", SIM_MAX_BOARDS);
			ret = -E2BIG;
			break;
		}
		b = board_parse(text);
		if (IS_ERR(b)) {
			pr_err("boards: entry %u is not MODEL@DDDD:BB:DD.0[/NODE] or a bus is named twice\n",
			       nr_boards + 1);
			ret = PTR_ERR(b);
			break;
		}
		/* Known before it is scanned: the driver looks its board up. */
		all[nr_boards++] = b;
		pci_lock_rescan_remove();
		ret = board_plug_in(b);
		pci_unlock_rescan_remove();
	}
	kfree(list);
	if (ret)
		sim_buses_destroy();
	return ret;
}

void sim_buses_destroy(void)
{
	struct pci_dev *pf;
	unsigned int i;

	pci_lock_rescan_remove();
	for (i = 0; i < nr_boards; i++) {
		pf = pci_get_domain_bus_and_slot(all[i]->domain, all[i]->bus, all[i]->devfn);
		if (pf && sim_board_of(pf))
			vfs_disable(pf);
		pci_dev_put(pf);
	}
	for (i = 0; i < nr_boards; i++) {
		if (!all[i]->root)
			continue;
		pci_stop_root_bus(all[i]->root);
		pci_remove_root_bus(all[i]->root);
	}
	pci_unlock_rescan_remove();
	while (nr_boards) {
		struct sim_board *b = all[--nr_boards];

		sim_debug_board_remove(b);
		board_free(b);
	}
}
