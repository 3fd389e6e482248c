"""Originals: everything that can be converted, opened and checked before anything heavy is imported."""

from kexport.converter.sources import archive as archive
from kexport.converter.sources import directory as directory
from kexport.converter.sources import live as live
from kexport.converter.sources.base import Options, Source, backbone_of, open_source

__all__ = ["Options", "Source", "backbone_of", "open_source"]
