"""Every fault: one small subclass of a part of the reference agent for each rule that is broken."""

from __future__ import annotations

from . import faults_calls, faults_cancel, faults_execute, faults_launch, faults_results
from .fault import FAULTS, Fault, assemble

__all__ = ["FAULTS", "Fault", "assemble"]

_ = (faults_calls, faults_cancel, faults_execute, faults_launch, faults_results)
