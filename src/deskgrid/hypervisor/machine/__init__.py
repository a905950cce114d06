"""A QEMU process: its arguments, its overlay, which accelerators are fit for use."""
