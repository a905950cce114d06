"""Run a virtual machine: one small contract, a fake, and drivers."""
