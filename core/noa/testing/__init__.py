"""Shipped for tests of workflows, agents and plugins: a simulated shell, a fake clock, suites, a journal in memory."""
