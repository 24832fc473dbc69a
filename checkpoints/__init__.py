"""What is remembered: the only SQL in the project. It knows the domain's records, and never an agent.

This file imports nothing on purpose: `checkpoints.saver` needs LangGraph, `checkpoints.database` does not.
"""
