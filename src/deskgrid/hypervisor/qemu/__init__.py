"""The QEMU driver: what the agent calls, and its handle on each VM's keeper."""
