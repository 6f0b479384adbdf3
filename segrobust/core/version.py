"""The package's version, for whoever is below ``segrobust`` itself."""

__version__ = "0.1.0"
