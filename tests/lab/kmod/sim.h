/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * virt_vgpu_sim: a host with NVIDIA vGPU boards, without boards. What it does is
 * written down in tests/lab/nvidia/README.md.
 *
 *   boards.awk   makes boards.c, the tables, of tests/lab/nvidia/boards
 *   bus.c        the slots: software PCI root buses, boards that come and go
 *   config.c     their configuration space, SR-IOV capability and VFs included
 *   rm.c         the resource manager: which vGPUs fit, and where they go
 *   mig.c        its GPU instances, modes and schedulers
 *   scratch.c    the MIG mode of boards on which it outlives the driver
 *   gpu.c        the PCI driver "nvidia" for PFs and VFs, mdev parents
 *   attributes.c the files of nvidia/ that mdevs and VFs have in common
 *   vf.c         vendor-specific VFIO: nvidia/ of a VF
 *   mdev.c       the mdev driver and nvidia/ of an mdev
 *   vgpu.c       the VFIO device of a vGPU, however it was made
 *   opener.c     who opened it: VM UUID and name
 *   migration.c  VFIO migration protocol v2 of a vGPU
 *   nvidiactl.c  /dev/nvidiactl, /proc/driver/nvidia
 *   services.c   /dev/nvidia-vgpuctl: what nvidia-vgpud and nvidia-vgpu-mgr do
 *   faults.c     operations that fail or take long, through debugfs
 *   debug.c      the other files there
 *   divert.c     where the kernel itself has to answer differently
 *
 * A board (sim_board) is the slot with all that the resource manager knows, and
 * lives as long as the module. A function (sim_function) is what the driver keeps
 * for a PF or VF that it is bound to. An instance (sim_instance) is the resource
 * manager's vGPU, a sim_vgpu the VFIO device through which QEMU uses one.
 *
 * Locks, outermost first: presence_lock (bus.c), PCI's lock of rescan and
 * removal (but a write of sriov_numvfs takes the PF's device lock before it),
 * device locks, functions_lock (gpu.c), a vGPU's lock, a board's lock.
 */
#ifndef VIRT_VGPU_SIM_H
#define VIRT_VGPU_SIM_H

#include <linux/debugfs.h>
#include <linux/list.h>
#include <linux/mdev.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/spinlock.h>
#include <linux/uuid.h>
#include <linux/version.h>
#include <linux/vfio.h>
#include <linux/workqueue.h>

#define SIM_NAME		"virt_vgpu_sim"
#define SIM_MAX_BOARDS		16
#define SIM_MAX_GIS		15	/* ids 0 to 14 */
#define SIM_MAX_SLICES		8

/* Where a board's VFs begin, counted from the PF. */
#define SIM_VF_OFFSET		4

/* A longer write of vgpu_params is refused with E2BIG. */
#define SIM_PARAMS_MAX		1024
#define SIM_GUEST_MAX		95

/* What stands for the frame buffer in saved state. */
#define SIM_FRAMEBUFFER		4096

/* ---- boards.c ---- */

/* One row of the driver's type table. */
struct sim_type_info {
	unsigned int id;
	const char *sysfs_name;		/* the id, as in "nvidia-<id>" */
	const char *name;
	unsigned int fb_mib;		/* the "profile size" the homogeneous rule compares */
	unsigned int slots;		/* of placements, that one occupies */
	unsigned int max_instance;
	int gi_profile;			/* -1: time-sliced on the whole GPU */
	unsigned int max_per_gi;
	unsigned int heads;
	unsigned int frl;		/* frame rate limit, frames per second */
	const char *resolution;
};

struct sim_gi_profile {
	unsigned int id, mib, slices, slots, max;
	const u8 *starts;
	unsigned int nr_starts;
};

/* Placement ids of vGPUs of one size, when sizes are mixed. */
struct sim_mixed {
	unsigned int size;
	const u8 *ids;
	unsigned int nr_ids;
};

struct sim_model {
	const char *model;	/* as in the boards= parameter */
	const char *name;	/* what NVML calls it */
	u16 device, subsystem;
	u8 revision;
	unsigned int vfs, slots;
	bool mixed_series, hetero, homogeneous_placements, mig, mig_reset, mig_timeslicing, arr;
	const struct sim_mixed *mixed;
	unsigned int nr_mixed;
	const struct sim_gi_profile *gis;
	unsigned int nr_gis;
	const struct sim_type_info *types;
	unsigned int nr_types;
};

extern const struct sim_model sim_models[];
extern const unsigned int sim_nr_models;

/* ---- main.c: how vGPUs are made on boards with SR-IOV ---- */

extern bool sim_vendor_vfio;	/* else sriov-mdev */
extern bool sim_rfc;		/* errnos of the upstream RFC driver */

/* ---- faults.c ---- */

enum sim_fault_op {
	SIM_FAULT_CREATE, SIM_FAULT_REMOVE, SIM_FAULT_SET_TYPE, SIM_FAULT_RELEASE,
	SIM_FAULT_PARAMS, SIM_FAULT_PLACEMENT, SIM_FAULT_GPU_INSTANCE, SIM_FAULT_OPEN,
	SIM_FAULT_NVML, SIM_FAULT_READ,
	/* One call of NVML each: */
	SIM_FAULT_MIG, SIM_FAULT_HETERO, SIM_FAULT_GI_HETERO, SIM_FAULT_GI_CREATE,
	SIM_FAULT_GI_DESTROY, SIM_FAULT_CI_CREATE, SIM_FAULT_CI_DESTROY, SIM_FAULT_SCHEDULER,
	SIM_FAULT_GI_SCHEDULER, SIM_FAULT_GPU_RESET,
	SIM_FAULT_OPS
};

/* Both count down; at zero the operation is healthy again. */
struct sim_fault {
	spinlock_t lock;	/* taken in a kprobe handler: irqsave everywhere */
	bool can_pretend;	/* success without acting is possible */
	unsigned int fail_count;
	int fail_errno;		/* positive; 0 pretends */
	unsigned int delay_count;
	unsigned int delay_ms;
};

struct sim_faults {
	struct sim_fault op[SIM_FAULT_OPS];
};

struct sim_board;

void sim_faults_init(struct sim_faults *faults);
void sim_faults_files(struct dentry *dir, struct sim_faults *faults);
void sim_faults_heal(struct sim_faults *faults);
bool sim_fault_take(struct sim_board *board, enum sim_fault_op op, int *number);
void sim_fault_delay(struct sim_board *board, enum sim_fault_op op);
int sim_fault_read(struct sim_board *board);
bool sim_fault_store(struct sim_board *board, enum sim_fault_op op, size_t count, ssize_t *ret);
extern struct sim_faults sim_faults_everywhere;

/* ---- debug.c ---- */

struct sim_vgpu;

extern u32 sim_plugin_exit_ms, sim_init_ms, sim_attributes_ms;

void sim_debug_init(void);
void sim_debug_exit(void);
void sim_debug_board_add(struct sim_board *board);
void sim_debug_board_remove(struct sim_board *board);
void sim_debug_vgpu_add(struct sim_vgpu *vgpu);
void sim_debug_vgpu_remove(struct sim_vgpu *vgpu);
int sim_debug_nvml_wait(void);

/* ---- divert.c ---- */

int sim_divert_init(void);
void sim_divert_exit(void);

/* ---- bus.c, config.c ---- */

/* Contents and writable bits; the PCI core's lock serialises access. */
struct sim_config {
	u8 bytes[PCI_CFG_SPACE_EXP_SIZE];
	u8 writable[PCI_CFG_SPACE_EXP_SIZE];
};

struct sim_instance;

struct sim_vf {
	struct sim_config config;
	bool vanished;		/* answers no configuration cycle till the next SR-IOV cycle */

	/* With the board's lock held: */
	bool exists;
	bool was_bound;		/* to "nvidia", since it appeared */
	bool wedged;
	struct sim_instance *instance;
};

struct sim_scheduler {
	unsigned int policy, arr, factor, frequency, slice_ns;
};

struct sim_gi {
	bool exists;		/* its id is its place in the board's array */
	const struct sim_gi_profile *profile;
	unsigned int start;	/* memory slot */
	bool hetero;
	struct sim_scheduler scheduler;
	unsigned int ci[SIM_MAX_SLICES];	/* slices of each, 0: none */
};

struct sim_board {
	const struct sim_model *model;
	u16 domain;
	u8 bus;
	u8 devfn;
	int node;
	char address[16];	/* "0000:3b:00.0" */

	bool present;		/* read by configuration space accesses of any CPU */
	struct sim_config config;
	struct sim_vf *vfs;	/* model->vfs of them */

	struct pci_sysdata sysdata;
	struct resource bus_range;
	struct pci_bus *root;

	struct sim_faults faults;
	struct dentry *debug;
	struct proc_dir_entry *proc;

	struct mutex lock;	/* the resource manager's, of everything below and in vfs */
	bool bound;		/* the PF is, to "nvidia" */
	bool lost;
	bool unbind_lock;
	bool mig, mig_pending;
	bool hetero;
	struct sim_scheduler scheduler;
	struct sim_gi gis[SIM_MAX_GIS];
	struct list_head instances;
	unsigned int nr_instances;
};

int sim_buses_create(const char *boards);
void sim_buses_destroy(void);
struct sim_board *sim_board_of(struct pci_dev *pdev);
struct sim_board *sim_board_get(unsigned int index);
struct sim_board *sim_board_find(const char *address);
int sim_board_set_present(struct sim_board *board, bool present);
int sim_board_vanish(struct sim_board *board, unsigned int vf);
void sim_vf_address(const struct sim_board *board, unsigned int vf, char *text, size_t size);

extern struct pci_ops sim_bus_ops;
void sim_config_power_on(struct sim_board *board);

/* ---- rm.c: the resource manager's vGPUs ---- */

struct sim_opener {
	pid_t pid;
	char vm_uuid[UUID_STRING_LEN + 1];
	char vm_name[128];
};

struct sim_instance {
	struct list_head node;
	struct sim_board *board;
	const struct sim_type_info *type;
	u32 id;
	int vf;			/* -1: the PF itself */
	int gi, placement;	/* -1: none */
	bool forgotten;		/* the PF was unbound: only the function still shows it */
	char mdev[UUID_STRING_LEN + 1];
	char params[SIM_PARAMS_MAX + 1];

	bool open;
	unsigned long opened;		/* in jiffies */
	bool exiting;			/* the plugin, after a VM */
	unsigned long exited;		/* when it is through with that */
	struct sim_opener opener;
	char guest[SIM_GUEST_MAX + 1];	/* NVIDIA's driver in it, see README.md; empty: none */
};

unsigned int sim_rm_available(struct sim_board *board, const struct sim_type_info *type, int vf);
unsigned int sim_rm_listed(struct sim_board *board, const struct sim_type_info *type, int vf);
const struct sim_type_info *sim_rm_type(struct sim_board *board, unsigned int id);
struct sim_instance *sim_rm_create(struct sim_board *board, const struct sim_type_info *type,
				   int vf, const char *mdev);
void sim_rm_destroy(struct sim_instance *instance);
int sim_rm_refusal(struct sim_board *board, const struct sim_type_info *type);
bool sim_rm_plugin_exits(struct sim_instance *instance);
void sim_rm_wait_plugin(struct sim_board *board, struct sim_instance *instance);
bool sim_rm_placement_shown(const struct sim_instance *instance);
bool sim_rm_placement_free(struct sim_board *board, const struct sim_type_info *type, int gi,
			   unsigned int id, const struct sim_instance *own);
int sim_rm_placement_next(struct sim_board *board, const struct sim_type_info *type, int gi,
			  int after);
int sim_rm_set_placement(struct sim_instance *instance, unsigned int id);
int sim_rm_set_gi(struct sim_instance *instance, unsigned int id);
int sim_rm_open(struct sim_instance *instance, const struct sim_opener *opener);
void sim_rm_close(struct sim_instance *instance, bool killed);
void sim_rm_vf_added(struct sim_board *board, unsigned int vf);
void sim_rm_vf_removed(struct sim_board *board, unsigned int vf);
unsigned int sim_rm_vfs(struct sim_board *board);
void sim_rm_set_bound(struct sim_board *board, bool bound);
const char *sim_instance_name(const struct sim_instance *instance, char *text, size_t size);

/* ---- attributes.c: *instance is looked up with the board's lock held, and may be NULL ---- */

ssize_t sim_params_show(struct sim_board *board, struct sim_instance **instance, char *buf);
ssize_t sim_params_store(struct sim_board *board, struct sim_instance **instance,
			 const char *buf, size_t count);
ssize_t sim_placement_show(struct sim_board *board, struct sim_instance **instance, char *buf);
ssize_t sim_placement_store(struct sim_board *board, struct sim_instance **instance,
			    const char *buf, size_t count);
ssize_t sim_gi_show(struct sim_board *board, struct sim_instance **instance, char *buf);
ssize_t sim_gi_store(struct sim_board *board, struct sim_instance **instance,
		     const char *buf, size_t count);

/* ---- mig.c: with the board's lock held ---- */

struct sim_gi *sim_gi_find(struct sim_board *board, int id);
int sim_gi_create(struct sim_board *board, unsigned int profile, int start);
int sim_gi_destroy(struct sim_board *board, int id);
int sim_ci_create(struct sim_board *board, int gi, unsigned int slices);
int sim_ci_destroy(struct sim_board *board, int gi, unsigned int id);
int sim_gi_set_hetero(struct sim_board *board, int id, bool hetero);
unsigned int sim_gi_instances(struct sim_board *board, int id, const struct sim_instance *except);
int sim_mig_set(struct sim_board *board, bool mig, bool others);
int sim_gpu_reset(struct sim_board *board, bool others);
int sim_hetero_set(struct sim_board *board, bool hetero);
int sim_scheduler_set(struct sim_board *board, const struct sim_scheduler *wanted);
int sim_gi_scheduler_set(struct sim_board *board, int id, const struct sim_scheduler *wanted);
void sim_modes_reset(struct sim_board *board);

/* ---- scratch.c ---- */

bool sim_scratch_load(const struct sim_board *board);
void sim_scratch_store(const struct sim_board *board);

/* ---- gpu.c ---- */

struct sim_type {
	struct mdev_type mdev;
	const struct sim_type_info *info;
};

struct sim_function {
	struct list_head node;
	struct sim_board *board;
	struct pci_dev *pdev;
	int vf;			/* -1: the PF */

	/* The parent of mdevs: */
	struct mdev_parent parent;
	bool parent_registered;
	struct sim_type *types;
	struct mdev_type **mdev_types;

	/* Vendor-specific VFIO: */
	struct sim_vgpu *vgpu;	/* NULL: bound again by hand */
	bool has_attributes;
	struct delayed_work attributes;
};

int sim_gpu_driver_register(void);
void sim_gpu_driver_unregister(void);
void sim_gpu_types_loaded(void);

/* ---- vf.c ---- */

int sim_vf_bind(struct sim_function *fn);
void sim_vf_unbind(struct sim_function *fn);

/* ---- mdev.c ---- */

extern struct mdev_driver sim_mdev_driver;
int sim_mdev_driver_register(void);
void sim_mdev_driver_unregister(void);

/* ---- vgpu.c ---- */

struct sim_migration;

struct sim_vgpu {
	struct vfio_device vdev;
	struct sim_board *board;
	int vf;				/* whose instance it shows; -1: that of an mdev */
	struct sim_instance *mdev;	/* the instance of an mdev */

	struct mutex lock;		/* of everything below */
	const struct sim_type_info *type;	/* while it is open */
	u8 config[PCI_CFG_SPACE_SIZE];
	u8 framebuffer[SIM_FRAMEBUFFER];

	enum vfio_device_mig_state state;
	struct sim_migration *saving, *resuming;
	bool dirty_logging;

	struct dentry *debug;
};

struct sim_vgpu *sim_vgpu_create(struct device *dev, struct sim_board *board, int vf,
				 struct sim_instance *mdev);
void sim_vgpu_destroy(struct sim_vgpu *vgpu);
struct sim_instance *sim_vgpu_instance(struct sim_vgpu *vgpu);
void sim_vgpu_fresh(struct sim_vgpu *vgpu);

/* ---- opener.c ---- */

void sim_opener_read(struct sim_opener *opener);

/* ---- migration.c ---- */

void sim_migration_init(struct sim_vgpu *vgpu);
void sim_migration_reset(struct sim_vgpu *vgpu);

/* ---- nvidiactl.c ---- */

int sim_proc_init(void);
void sim_proc_exit(void);
int sim_nvidiactl_init(void);
void sim_nvidiactl_exit(void);
void sim_proc_board_add(struct sim_board *board);
void sim_proc_board_remove(struct sim_board *board);

/* ---- services.c ---- */

int sim_services_init(void);
void sim_services_exit(void);
bool sim_types_loaded(void);
bool sim_manager_runs(void);
void sim_manager_event(const char *verb, const char *what);

#endif
