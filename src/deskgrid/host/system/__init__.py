"""What every process needs of the operating system: files, programs, accounts, logs."""
