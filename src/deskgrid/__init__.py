"""deskgrid: idle desktops become an HTCondor pool of virtual machines, without their owners noticing."""

__version__ = "0.1.0"
