"""Readers of public data sets: each becomes ``events.parquet`` and ``catalog.parquet`` in the form that training reads.

One module for each format; `ebbtide.data.prepare.formats` lists them, `ebbtide.data.prepare.write` writes the files.
"""
