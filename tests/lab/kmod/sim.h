/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * virt_vgpu_sim: a host with NVIDIA vGPU boards, without boards.
 *
 *   bus.c        software PCI root buses; each carries one board with an
 *                emulated configuration space
 *   models.c     what boards and vGPU types exist (the driver's type table)
 *   gpu.c        the PCI driver "nvidia": one sim_gpu per bound board, and the
 *                resource manager's rules about which vGPUs fit
 *   vgpu.c       the mdev driver: one sim_vgpu per mediated device, and the
 *                VFIO device that QEMU opens
 *   migration.c  VFIO migration protocol v2 of a sim_vgpu
 *   faults.c     fault injection and inspection through debugfs
 *   divert.c     where the kernel itself has to answer differently
 *
 * A board (sim_board) is the slot and lives as long as the module. A GPU
 * (sim_gpu) is what the driver keeps for a board it is bound to; it comes and
 * goes with bind, unbind and surprise removal.
 */
#ifndef VIRT_VGPU_SIM_H
#define VIRT_VGPU_SIM_H

#include <linux/debugfs.h>
#include <linux/mdev.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/spinlock.h>
#include <linux/version.h>
#include <linux/vfio.h>

#define SIM_NAME		"virt_vgpu_sim"
#define SIM_MAX_BOARDS		16
#define SIM_MAX_TYPES		32

/* KMOD: a longer write of vgpu_params is refused with E2BIG. */
#define SIM_PARAMS_MAX		1024

/* What stands for the frame buffer in saved state. */
#define SIM_FRAMEBUFFER		4096

/* ---- models.c ---- */

/* One row of the driver's type table. */
struct sim_type_info {
	const char *id;		/* as in "nvidia-<id>" */
	const char *name;
	unsigned int heads;
	unsigned int frl;	/* frame rate limit, frames per second */
	unsigned int fb_mib;	/* the "profile size" the homogeneous rule compares */
	const char *resolution;
	unsigned int max_instance;
};

struct sim_model {
	const char *name;	/* as in the boards= parameter */
	u16 device, subsystem;
	u8 revision;
	const struct sim_type_info *types;
	unsigned int nr_types;
};

const struct sim_model *sim_model_find(const char *name);

/* ---- faults.c ---- */

enum sim_fault_op { SIM_FAULT_CREATE, SIM_FAULT_REMOVE, SIM_FAULT_OPS };

/* Both count down; at zero the operation is healthy again. */
struct sim_fault {
	unsigned int fail_count;
	int fail_errno;		/* positive; 0 pretends success without acting */
	unsigned int delay_count;
	unsigned int delay_ms;
};

struct sim_faults {
	spinlock_t lock;	/* taken in a kprobe handler: irqsave everywhere */
	struct sim_fault op[SIM_FAULT_OPS];
};

struct sim_board;
struct sim_vgpu;

void sim_faults_init(void);
void sim_faults_exit(void);
void sim_faults_board_add(struct sim_board *board);
void sim_faults_board_remove(struct sim_board *board);
void sim_faults_vgpu_add(struct sim_vgpu *vgpu);
void sim_faults_vgpu_remove(struct sim_vgpu *vgpu);
bool sim_fault_take(struct sim_board *board, enum sim_fault_op op, int *number);
void sim_fault_delay(struct sim_board *board, enum sim_fault_op op);

/* ---- divert.c ---- */

int sim_divert_init(void);
void sim_divert_exit(void);

/* ---- bus.c ---- */

struct sim_board {
	const struct sim_model *model;
	u16 domain;
	u8 bus;
	u8 devfn;
	int node;
	char address[16];	/* "0000:3b:00.0" */

	/* Read by configuration space accesses of any CPU. */
	bool present;
	/* Contents and writable bits; the PCI core's lock serialises access. */
	u8 config[PCI_CFG_SPACE_EXP_SIZE];
	u8 writable[PCI_CFG_SPACE_EXP_SIZE];

	struct pci_sysdata sysdata;
	struct resource bus_range;
	struct pci_bus *root;

	struct sim_faults faults;
	struct dentry *debug;
};

int sim_buses_create(const char *boards);
void sim_buses_destroy(void);
struct sim_board *sim_board_of(struct pci_dev *pdev);
struct sim_board *sim_board_get(unsigned int index);
int sim_board_set_present(struct sim_board *board, bool present);

/* ---- gpu.c ---- */

struct sim_type {
	struct mdev_type mdev;
	const struct sim_type_info *info;
};

struct sim_gpu {
	struct mdev_parent parent;
	struct sim_board *board;
	struct pci_dev *pdev;

	struct mutex lock;		/* of the two below */
	unsigned int created;		/* vGPUs that exist, running or not */
	const struct sim_type_info *first;	/* decides what else may be created */

	struct sim_type types[SIM_MAX_TYPES];
	struct mdev_type *mdev_types[SIM_MAX_TYPES];
};

int sim_gpu_driver_register(void);
void sim_gpu_driver_unregister(void);
unsigned int sim_gpu_available(struct sim_gpu *gpu, const struct sim_type_info *info);
int sim_gpu_take(struct sim_gpu *gpu, const struct sim_type_info *info);
void sim_gpu_give(struct sim_gpu *gpu);

/* ---- vgpu.c ---- */

struct sim_migration;

struct sim_vgpu {
	struct vfio_device vdev;
	struct mdev_device *mdev;
	struct sim_gpu *gpu;
	const struct sim_type_info *info;

	struct mutex lock;		/* of everything below */
	bool open;
	u8 config[PCI_CFG_SPACE_SIZE];
	char params[SIM_PARAMS_MAX + 1];
	u8 framebuffer[SIM_FRAMEBUFFER];

	enum vfio_device_mig_state state;
	struct sim_migration *saving, *resuming;
	bool dirty_logging;

	struct dentry *debug;
};

extern struct mdev_driver sim_mdev_driver;
int sim_vgpu_driver_register(void);
void sim_vgpu_driver_unregister(void);

/* ---- migration.c ---- */

void sim_migration_init(struct sim_vgpu *vgpu);
void sim_migration_reset(struct sim_vgpu *vgpu);

#endif
