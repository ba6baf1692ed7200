"""Measurements that are run by hand; what they gave is committed under `results/`."""
