"""Measuring: rates, fidelity, sessions and tasks, beside other codecs. Knows nothing of the cloud.

A user's own codec joins through the entry-point group ``unimic.codecs``, see `unimic.measure.codecs`.
"""
