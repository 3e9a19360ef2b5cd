"""Tokenizers compared on clips: what they cost, what comes back, and how much of the class is left.

``nano4m tokenizer-report`` measures any set of them and writes a page, ``report.json`` and a table.
"""
