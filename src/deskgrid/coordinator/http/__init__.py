"""The coordinator's HTTPS: desktops' reports, the operator, the images' repository; bounded for everybody."""
