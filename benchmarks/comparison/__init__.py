"""`benchmarks/compare.py`: its parts.

contestants -> rounds (each visit a fresh process, `visit.py`) -> figures -> document -> table, JSON, plot, page
"""
