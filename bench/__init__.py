"""Measures this appliance beside its peers; see README.md in this folder."""
