"""The studio: a page on which a person watches interests fade, served by the gateway beside its HTTP/JSON."""

from ebbtide.studio.pages import pages
from ebbtide.studio.titles import StudioData

__all__ = ["StudioData", "pages"]
