"""The process that serves a VM its disk over NBD, from the desktop's store."""
