"""The one place that holds kexport's version."""

__version__ = "0.1.0"
