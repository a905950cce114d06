"""The main job shown on real parts: a pool, a coordinator, two desktops, three jobs, one returning owner."""
