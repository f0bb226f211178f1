"""Faults, put in on purpose: what is promised in docs/GUARANTEES.md, held against crashes, cuts and damage.

docs/FAULTS.md is the page of this package: what a scenario is, how to run them, which row of the matrix is where.
"""
