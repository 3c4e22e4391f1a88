"""Pure decisions: what is a duplicate, what to ask for, what it may cost, what happens next.

Nothing here does I/O, reads a clock or the environment: values come in, values go out.
"""
