"""The process that keeps one VM: starts its QEMU, speaks with its guest, ends both. It outlives the agent."""
