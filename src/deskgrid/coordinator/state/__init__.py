"""What the coordinator knows: leases, desktops, members; rebuilt from rows and reports."""
