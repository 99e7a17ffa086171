"""Images: had from registries, archives, trees and Debian packages; kept by digest."""

from hybrid.images.store import ImageStore

__all__ = ["ImageStore"]
