"""Root trees of Debian packages that deskgrid's own tools run in, and the ways into them."""
