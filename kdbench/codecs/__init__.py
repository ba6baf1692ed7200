"""Codecs behind one protocol (`base`): learned (`hyperprior`, `bitfile`) and classical."""
