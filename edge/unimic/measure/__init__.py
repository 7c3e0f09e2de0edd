"""Measuring: rates, fidelity, sessions and tasks, beside other codecs; knows nothing of the cloud.

A codec of one's own joins through the entry points ``unimic.codecs``, see `unimic.measure.codecs`.
"""
