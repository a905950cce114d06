"""The service beside HTCondor's central manager: what desktops report, what HTCondor wants, and leases between them."""
