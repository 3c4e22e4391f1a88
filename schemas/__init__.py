"""The contracts: what may be asked for, and what is answered.

`request` is the one request model of events and HTTP, `outcomes` the three answers, `problems`
turns a refusal into a sentence. `python -m schemas` writes them down as JSON Schema and AsyncAPI.
"""
