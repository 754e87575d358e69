// SPDX-License-Identifier: GPL-2.0-only
/*
 * Configuration space of a board and its VFs, answered from memory. Everything
 * above, from lspci to libvirt, sees ordinary PCI functions.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt
#include <linux/pci_regs.h>
#include <linux/string.h>
#include "sim.h"

#define PCIE_CAP	0x40
#define SRIOV_CAP	0x100

static u16 get16(const struct sim_config *c, int where)
{
	return c->bytes[where] | c->bytes[where + 1] << 8;
}

static void put16(struct sim_config *c, int where, u16 value)
{
	c->bytes[where] = value & 0xff;
	c->bytes[where + 1] = value >> 8;
}

static void put32(struct sim_config *c, int where, u32 value)
{
	put16(c, where, value & 0xffff);
	put16(c, where + 2, value >> 16);
}

static void allow16(struct sim_config *c, int where, u16 bits)
{
	c->writable[where] = bits & 0xff;
	c->writable[where + 1] = bits >> 8;
}

/*
 * A 3D controller with a PCI Express capability and nothing to map: no BARs, no
 * interrupt, no way to do DMA.
 */
static void function_power_on(struct sim_config *c, const struct sim_model *model)
{
	memset(c, 0, sizeof(*c));
	put16(c, PCI_VENDOR_ID, PCI_VENDOR_ID_NVIDIA);
	put16(c, PCI_DEVICE_ID, model->device);
	put16(c, PCI_STATUS, PCI_STATUS_CAP_LIST);
	c->bytes[PCI_REVISION_ID] = model->revision;
	put16(c, PCI_CLASS_DEVICE, PCI_CLASS_DISPLAY_3D);
	put16(c, PCI_SUBSYSTEM_VENDOR_ID, PCI_VENDOR_ID_NVIDIA);
	put16(c, PCI_SUBSYSTEM_ID, model->subsystem);
	c->bytes[PCI_CAPABILITY_LIST] = PCIE_CAP;
	allow16(c, PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER |
		PCI_COMMAND_PARITY | PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE);
	c->writable[PCI_CACHE_LINE_SIZE] = 0xff;
	c->writable[PCI_INTERRUPT_LINE] = 0xff;

	c->bytes[PCIE_CAP] = PCI_CAP_ID_EXP;
	/* Integrated endpoint: there is no root port above it. */
	put16(c, PCIE_CAP + PCI_EXP_FLAGS, 2 | (PCI_EXP_TYPE_RC_END << 4));
	put32(c, PCIE_CAP + PCI_EXP_DEVCAP, PCI_EXP_DEVCAP_RBER | PCI_EXP_DEVCAP_FLR);
	/* Not the top bit: it starts a function-level reset and reads as 0. */
	allow16(c, PCIE_CAP + PCI_EXP_DEVCTL, 0x7fff);
}

static void sriov_power_on(struct sim_config *c, const struct sim_model *model)
{
	put32(c, SRIOV_CAP, PCI_EXT_CAP_ID_SRIOV | (1 << 16));
	put16(c, SRIOV_CAP + PCI_SRIOV_INITIAL_VF, model->vfs);
	put16(c, SRIOV_CAP + PCI_SRIOV_TOTAL_VF, model->vfs);
	put16(c, SRIOV_CAP + PCI_SRIOV_VF_OFFSET, SIM_VF_OFFSET);
	put16(c, SRIOV_CAP + PCI_SRIOV_VF_STRIDE, 1);
	put16(c, SRIOV_CAP + PCI_SRIOV_VF_DID, model->device);
	put32(c, SRIOV_CAP + PCI_SRIOV_SUP_PGSIZE, 0x553);
	put32(c, SRIOV_CAP + PCI_SRIOV_SYS_PGSIZE, 1);
	allow16(c, SRIOV_CAP + PCI_SRIOV_CTRL, PCI_SRIOV_CTRL_VFE | PCI_SRIOV_CTRL_MSE);
	allow16(c, SRIOV_CAP + PCI_SRIOV_NUM_VF, 0xffff);
	allow16(c, SRIOV_CAP + PCI_SRIOV_SYS_PGSIZE, 0x0fff);
}

void sim_config_power_on(struct sim_board *b)
{
	function_power_on(&b->config, b->model);
	if (b->model->vfs)
		sriov_power_on(&b->config, b->model);
}

static bool vfs_enabled(const struct sim_board *b)
{
	return b->model->vfs && get16(&b->config, SRIOV_CAP + PCI_SRIOV_CTRL) & PCI_SRIOV_CTRL_VFE;
}

static unsigned int num_vfs(const struct sim_board *b)
{
	return min_t(unsigned int, get16(&b->config, SRIOV_CAP + PCI_SRIOV_NUM_VF), b->model->vfs);
}

/* A VF has no ids of its own: the kernel takes the PF's vendor and the capability's device. */
static void vfs_power_on(struct sim_board *b)
{
	unsigned int i;

	for (i = 0; i < num_vfs(b); i++) {
		struct sim_vf *vf = &b->vfs[i];

		function_power_on(&vf->config, b->model);
		put32(&vf->config, PCI_VENDOR_ID, 0xffffffff);
		WRITE_ONCE(vf->vanished, false);
	}
}

static struct sim_config *config_at(struct sim_board *b, unsigned int devfn)
{
	unsigned int vf;

	if (!READ_ONCE(b->present))
		return NULL;
	if (devfn == b->devfn)
		return &b->config;
	vf = devfn - b->devfn - SIM_VF_OFFSET;
	if (devfn < b->devfn + SIM_VF_OFFSET || !vfs_enabled(b) || vf >= num_vfs(b) ||
	    READ_ONCE(b->vfs[vf].vanished))
		return NULL;
	return &b->vfs[vf].config;
}

static struct sim_board *board_at(struct pci_bus *bus)
{
	struct pci_sysdata *sysdata = bus->sysdata;

	return container_of(sysdata, struct sim_board, sysdata);
}

static int config_read(struct pci_bus *bus, unsigned int devfn, int where, int size, u32 *value)
{
	struct sim_config *c = config_at(board_at(bus), devfn);
	int i;

	*value = ~0u;
	if (!c || where < 0 || where + size > sizeof(c->bytes))
		return PCIBIOS_DEVICE_NOT_FOUND;
	*value = 0;
	for (i = 0; i < size; i++)
		*value |= (u32)c->bytes[where + i] << (8 * i);
	return PCIBIOS_SUCCESSFUL;
}

static int config_write(struct pci_bus *bus, unsigned int devfn, int where, int size, u32 value)
{
	struct sim_board *b = board_at(bus);
	struct sim_config *c = config_at(b, devfn);
	bool enabled;
	int i;

	if (!c || where < 0 || where + size > sizeof(c->bytes))
		return PCIBIOS_DEVICE_NOT_FOUND;
	enabled = vfs_enabled(b);
	for (i = 0; i < size; i++) {
		u8 bits = c->writable[where + i];

		c->bytes[where + i] = (c->bytes[where + i] & ~bits) | ((value >> (8 * i)) & bits);
	}
	if (!enabled && vfs_enabled(b))
		vfs_power_on(b);
	return PCIBIOS_SUCCESSFUL;
}

struct pci_ops sim_bus_ops = { .read = config_read, .write = config_write };
