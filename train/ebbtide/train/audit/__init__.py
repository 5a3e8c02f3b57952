"""Responsible ranking: which groups of items and users lists serve, before and after a constraint.

Needs the ``[evaluate]`` extra.
"""
