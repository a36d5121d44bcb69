"""Watts, degrees and bytes: reading them, deciding what the loop may do, remembering what each way of working costs."""
