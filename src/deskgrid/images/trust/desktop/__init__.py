"""The desktop's side: from the root that was shipped to what a VM may boot from."""
