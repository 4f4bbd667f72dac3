"""Frozen data and pure functions that every other layer speaks: ids, payloads, failures, plans, events.

This package does no I/O, reads no clock and draws no random numbers.
"""
