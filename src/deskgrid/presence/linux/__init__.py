"""The owner of a Linux desktop, from the kernel, logind and utmp."""
