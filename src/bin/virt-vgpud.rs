//! The daemon that looks after domains; see `virt_vgpu::daemon`.

fn main() -> std::process::ExitCode {
    virt_vgpu::daemon::main()
}
