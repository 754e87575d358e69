//! The GPUs: `-L`, `-q`, and the table.

use lab_nvidia_smi::raw::{Answer, Code};
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;

use crate::{Gpu, Smi, field, heading, or_na};

const MIB: u64 = 1 << 20;

/// `-L`
pub fn list(smi: &Smi<'_>) -> Answer<()> {
    for gpu in gpus(smi)? {
        let (name, uuid) = (gpu.device.name()?, gpu.device.uuid()?);
        println!("GPU {}: {name} (UUID: {uuid})", gpu.index);
    }
    Ok(())
}

/// Without arguments.
pub fn table(smi: &Smi<'_>) -> Answer<()> {
    let gpus = gpus(smi)?;
    let driver = smi.nvml.sys_driver_version()?;
    let rule = "+-----------------------------------------+------------------------+";
    println!("{rule}");
    println!("| NVIDIA-SMI {driver:<28}Driver Version: {driver:<10}|");
    println!("{rule}");
    println!("| GPU  Name                    MIG Mode   | Bus-Id    Memory-Usage |");
    println!("|=========================================+========================|");
    for gpu in gpus {
        let memory = gpu.device.memory_info()?;
        let (used, total) = (memory.used / MIB, memory.total / MIB);
        let name = gpu.device.name()?;
        let usage = format!("{used}MiB / {total}MiB");
        let mig = mig_mode(smi.raw.mig_mode(&gpu.device).map(|(current, _)| current));
        println!(
            "| {:>3}  {name:<23.23} {mig:<11}| {:<23}|",
            gpu.index, gpu.bus
        );
        println!("| {:<40}| {usage:>22} |", "");
    }
    println!("{rule}");
    Ok(())
}

/// `-q`
pub fn all(smi: &Smi<'_>) -> Answer<()> {
    let gpus = gpus(smi)?;
    println!("\n==============NVSMI LOG==============\n");
    field(0, "Driver Version", &smi.nvml.sys_driver_version()?);
    let cuda = smi.nvml.sys_cuda_driver_version()?;
    field(
        0,
        "CUDA Version",
        &format!("{}.{}", cuda / 1000, cuda % 1000 / 10),
    );
    println!();
    field(0, "Attached GPUs", &smi.nvml.device_count()?.to_string());
    for gpu in gpus {
        about(smi, &gpu)?;
    }
    Ok(())
}

fn gpus<'a>(smi: &Smi<'a>) -> Answer<Vec<Gpu<'a>>> {
    let gpus = smi.gpus()?;
    if gpus.is_empty() {
        println!("No devices were found");
        return Err(Code(crate::NOT_FOUND));
    }
    Ok(gpus)
}

fn about(smi: &Smi<'_>, gpu: &Gpu<'_>) -> Answer<()> {
    let device = &gpu.device;
    heading(0, &format!("GPU {}", gpu.bus));
    field(1, "Product Name", &device.name()?);
    let architecture = device.architecture().map(|found| found.to_string());
    field(
        1,
        "Product Architecture",
        &or_na(architecture.map_err(Code::from)),
    );
    let mig = smi.raw.mig_mode(device);
    heading(1, "MIG Mode");
    field(2, "Current", &mig_mode(mig.map(|(current, _)| current)));
    field(2, "Pending", &mig_mode(mig.map(|(_, pending)| pending)));
    field(
        1,
        "Serial Number",
        &or_na(device.serial().map_err(Code::from)),
    );
    field(1, "GPU UUID", &device.uuid()?);
    field(
        1,
        "Minor Number",
        &or_na(device.minor_number().map_err(Code::from)),
    );
    capabilities(smi, gpu);
    virtualization(smi, gpu);
    pci(gpu)?;
    memory(gpu)?;
    heading(1, "Utilization");
    let rates = device.utilization_rates();
    let rate = |rate: Option<u32>| rate.map_or("N/A".to_owned(), |rate| format!("{rate} %"));
    field(2, "GPU", &rate(rates.as_ref().ok().map(|rates| rates.gpu)));
    field(
        2,
        "Memory",
        &rate(rates.as_ref().ok().map(|rates| rates.memory)),
    );
    heading(1, "Temperature");
    let degrees = device.temperature(TemperatureSensor::Gpu)?;
    field(2, "GPU Current Temp", &format!("{degrees} C"));
    heading(1, "GPU Power Readings");
    let milliwatts = f64::from(device.power_usage()?);
    field(
        2,
        "Average Power Draw",
        &format!("{:.2} W", milliwatts / 1000.0),
    );
    println!();
    Ok(())
}

fn capabilities(smi: &Smi<'_>, gpu: &Gpu<'_>) {
    let supported = |number| match smi.raw.capability(&gpu.device, number) {
        Ok(0) => "Not Supported".to_owned(),
        Ok(_) => "Supported".to_owned(),
        Err(_) => "N/A".to_owned(),
    };
    heading(1, "vGPU Device Capability");
    field(2, "Fractional Multi-vGPU", &supported(0));
    field(2, "Heterogeneous Time-Slice Profiles", &supported(1));
    field(2, "Heterogeneous Time-Slice Sizes", &supported(2));
    field(2, "Homogeneous Placements", &supported(9));
    field(2, "MIG Time-Slicing", &supported(10));
    let mode = smi.raw.capability(&gpu.device, 11);
    field(
        2,
        "MIG Time-Slicing Mode",
        &mig_mode(mode.map(|mode| mode != 0)),
    );
}

fn virtualization(smi: &Smi<'_>, gpu: &Gpu<'_>) {
    use nvml_wrapper::enum_wrappers::device::HostVgpuMode;

    heading(1, "GPU Virtualization Mode");
    let mode = match smi.raw.virtualization_mode(&gpu.device) {
        Ok(0) => "None",
        Ok(1) => "Pass-Through",
        Ok(2) => "VGPU",
        Ok(3) => "Host VGPU",
        Ok(4) => "Host VSGA",
        _ => "N/A",
    };
    field(2, "Virtualization Mode", mode);
    let host = match gpu.device.vgpu_host_mode() {
        Ok(HostVgpuMode::Sriov) => "SR-IOV",
        Ok(HostVgpuMode::NonSriov) => "Non SR-IOV",
        Err(_) => "N/A",
    };
    field(2, "Host VGPU Mode", host);
    field(
        2,
        "vGPU Heterogeneous Mode",
        &mig_mode(smi.raw.heterogeneous(&gpu.device)),
    );
}

fn pci(gpu: &Gpu<'_>) -> Answer<()> {
    let pci = gpu.device.pci_info()?;
    heading(1, "PCI");
    field(2, "Bus", &format!("0x{:02X}", pci.bus));
    field(2, "Device", &format!("0x{:02X}", pci.device));
    field(2, "Domain", &format!("0x{:04X}", pci.domain));
    field(2, "Device Id", &format!("0x{:08X}", pci.pci_device_id));
    field(2, "Bus Id", &pci.bus_id);
    let subsystem = pci.pci_sub_system_id.unwrap_or_default();
    field(2, "Sub System Id", &format!("0x{subsystem:08X}"));
    Ok(())
}

fn memory(gpu: &Gpu<'_>) -> Answer<()> {
    let mib = |bytes: u64| format!("{} MiB", bytes / MIB);
    let memory = gpu.device.memory_info()?;
    heading(1, "FB Memory Usage");
    field(2, "Total", &mib(memory.total));
    field(2, "Reserved", &mib(memory.reserved));
    field(2, "Used", &mib(memory.used));
    field(2, "Free", &mib(memory.free));
    let bar1 = gpu.device.bar1_memory_info()?;
    heading(1, "BAR1 Memory Usage");
    field(2, "Total", &mib(bar1.total));
    field(2, "Used", &mib(bar1.used));
    field(2, "Free", &mib(bar1.free));
    Ok(())
}

/// A mode that a GPU may not have.
pub fn mig_mode(mode: Answer<bool>) -> String {
    or_na(mode.map(|on| if on { "Enabled" } else { "Disabled" }))
}
