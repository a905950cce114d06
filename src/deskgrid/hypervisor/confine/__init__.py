"""What holds a VM's processes: a sandbox, processors, memory, and that nothing of them stays."""
