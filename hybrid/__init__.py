"""One image spec, run as a virtual machine or as a container, and measured."""

__version__ = "0.1.0"
