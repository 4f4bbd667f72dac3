"""What a parcel costs."""

__version__ = "1.0.0"
