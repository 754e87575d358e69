//! The administrator's command; see `virt_vgpu::cli`.

fn main() -> std::process::ExitCode {
    virt_vgpu::cli::main()
}
