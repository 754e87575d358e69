// SPDX-License-Identifier: GPL-2.0-only
/*
 * Software PCI root buses. Each board has a bus of its own, so that its address
 * can be anything, and answers configuration cycles from memory. Everything
 * above, from lspci to libvirt, sees ordinary PCI functions.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt
#include <linux/module.h>
#include <linux/nodemask.h>
#include <linux/pci_regs.h>
#include <linux/slab.h>
#include <linux/string.h>
#include "sim.h"

#define PCIE_CAP	0x40

static struct sim_board *all[SIM_MAX_BOARDS];
static unsigned int nr_boards;
static DEFINE_MUTEX(presence_lock);

static void put16(struct sim_board *b, int where, u16 value)
{
	b->config[where] = value & 0xff;
	b->config[where + 1] = value >> 8;
}

static void allow16(struct sim_board *b, int where, u16 bits)
{
	b->writable[where] = bits & 0xff;
	b->writable[where + 1] = bits >> 8;
}

/*
 * A 3D controller with a PCI Express capability and nothing to map: no BARs, no
 * interrupt, no way to do DMA.
 */
static void board_power_on(struct sim_board *b)
{
	memset(b->config, 0, sizeof(b->config));
	memset(b->writable, 0, sizeof(b->writable));
	put16(b, PCI_VENDOR_ID, PCI_VENDOR_ID_NVIDIA);
	put16(b, PCI_DEVICE_ID, b->model->device);
	put16(b, PCI_STATUS, PCI_STATUS_CAP_LIST);
	b->config[PCI_REVISION_ID] = b->model->revision;
	put16(b, PCI_CLASS_DEVICE, PCI_CLASS_DISPLAY_3D);
	put16(b, PCI_SUBSYSTEM_VENDOR_ID, PCI_VENDOR_ID_NVIDIA);
	put16(b, PCI_SUBSYSTEM_ID, b->model->subsystem);
	b->config[PCI_CAPABILITY_LIST] = PCIE_CAP;
	allow16(b, PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER |
		PCI_COMMAND_PARITY | PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE);
	b->writable[PCI_CACHE_LINE_SIZE] = 0xff;
	b->writable[PCI_INTERRUPT_LINE] = 0xff;

	b->config[PCIE_CAP] = PCI_CAP_ID_EXP;
	/* Integrated endpoint: there is no root port above it. */
	put16(b, PCIE_CAP + PCI_EXP_FLAGS, 2 | (PCI_EXP_TYPE_RC_END << 4));
	put16(b, PCIE_CAP + PCI_EXP_DEVCAP, PCI_EXP_DEVCAP_RBER);
	put16(b, PCIE_CAP + PCI_EXP_DEVCAP + 2, PCI_EXP_DEVCAP_FLR >> 16);
	/* Not the top bit: it starts a function-level reset and reads as 0. */
	allow16(b, PCIE_CAP + PCI_EXP_DEVCTL, 0x7fff);
}

static struct sim_board *board_at(struct pci_bus *bus, unsigned int devfn)
{
	struct pci_sysdata *sysdata = bus->sysdata;
	struct sim_board *b = container_of(sysdata, struct sim_board, sysdata);

	return devfn == b->devfn && READ_ONCE(b->present) ? b : NULL;
}

static int config_read(struct pci_bus *bus, unsigned int devfn, int where, int size, u32 *value)
{
	struct sim_board *b = board_at(bus, devfn);
	int i;

	*value = ~0u;
	if (!b || where < 0 || where + size > sizeof(b->config))
		return PCIBIOS_DEVICE_NOT_FOUND;
	*value = 0;
	for (i = 0; i < size; i++)
		*value |= (u32)b->config[where + i] << (8 * i);
	return PCIBIOS_SUCCESSFUL;
}

static int config_write(struct pci_bus *bus, unsigned int devfn, int where, int size, u32 value)
{
	struct sim_board *b = board_at(bus, devfn);
	int i;

	if (!b || where < 0 || where + size > sizeof(b->config))
		return PCIBIOS_DEVICE_NOT_FOUND;
	for (i = 0; i < size; i++) {
		u8 bits = b->writable[where + i];

		b->config[where + i] = (b->config[where + i] & ~bits) | ((value >> (8 * i)) & bits);
	}
	return PCIBIOS_SUCCESSFUL;
}

static struct pci_ops bus_ops = { .read = config_read, .write = config_write };

struct sim_board *sim_board_get(unsigned int index)
{
	return index < nr_boards ? all[index] : NULL;
}

/* NULL for a device that is not ours: a real board must never be taken. */
struct sim_board *sim_board_of(struct pci_dev *pdev)
{
	unsigned int i;

	for (i = 0; i < nr_boards; i++)
		if (pdev->bus->ops == &bus_ops && pdev->sysdata == &all[i]->sysdata)
			return all[i];
	return NULL;
}

/*
 * The board falls off the bus, or comes back. Like the real thing, falling off
 * ends only when nobody holds one of its vGPUs open any more.
 */
int sim_board_set_present(struct sim_board *b, bool present)
{
	struct pci_dev *pdev;
	int ret = 0;

	mutex_lock(&presence_lock);
	if (present == b->present)
		goto out;
	if (present) {
		board_power_on(b);
		WRITE_ONCE(b->present, true);
		pci_lock_rescan_remove();
		pci_rescan_bus(b->root);
		pci_unlock_rescan_remove();
	} else {
		pdev = pci_get_domain_bus_and_slot(b->domain, b->bus, b->devfn);
		if (!pdev) {
			ret = -ENODEV;
			goto out;
		}
		pci_stop_and_remove_bus_device_locked(pdev);
		pci_dev_put(pdev);
		WRITE_ONCE(b->present, false);
	}
out:
	mutex_unlock(&presence_lock);
	return ret;
}

/* "t4@0000:3b:00.0/1" */
static struct sim_board *board_parse(char *text)
{
	unsigned int domain, bus, slot, function, i;
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
		if (kstrtoint(slash, 10, &node) || node < NUMA_NO_NODE || node >= MAX_NUMNODES)
			return ERR_PTR(-EINVAL);
	}
	if (sscanf(at, "%4x:%2x:%2x.%1x%n", &domain, &bus, &slot, &function, &end) != 4 ||
	    at[end] || domain > 0xffff || bus > 0xff || slot > 31 || function)
		return ERR_PTR(-EINVAL);
	/* Not EEXIST: modprobe takes that for "loaded already". */
	for (i = 0; i < nr_boards; i++)
		if (all[i]->domain == domain && all[i]->bus == bus)
			return ERR_PTR(-EINVAL);
	if (node != NUMA_NO_NODE && !node_online(node)) {
		pr_warn("%s: no NUMA node %d here, board is on none\n", at, node);
		node = NUMA_NO_NODE;
	}

	b = kzalloc(sizeof(*b), GFP_KERNEL);
	if (!b)
		return ERR_PTR(-ENOMEM);
	b->model = sim_model_find(text);
	if (!b->model) {
		pr_err("no model '%s'\n", text);
		kfree(b);
		return ERR_PTR(-EINVAL);
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
	spin_lock_init(&b->faults.lock);
	snprintf(b->address, sizeof(b->address), "%04x:%02x:%02x.0", domain, bus, slot);
	board_power_on(b);
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
	b->root = pci_create_root_bus(NULL, b->bus, &bus_ops, &b->sysdata, &resources);
	if (!b->root) {
		pci_free_resource_list(&resources);
		return -ENODEV;
	}
	sim_faults_board_add(b);
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
	unsigned int i;

	pci_lock_rescan_remove();
	for (i = 0; i < nr_boards; i++) {
		if (!all[i]->root)
			continue;
		pci_stop_root_bus(all[i]->root);
		pci_remove_root_bus(all[i]->root);
	}
	pci_unlock_rescan_remove();
	while (nr_boards) {
		struct sim_board *b = all[--nr_boards];

		sim_faults_board_remove(b);
		kfree(b);
	}
}
