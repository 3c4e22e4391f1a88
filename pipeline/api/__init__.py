"""The HTTP API: requests on demand, limits and bills, pictures, probes.

`app.py` puts it together; `generate.py` holds the specification's two endpoints. Routes decode,
call one function of the pipeline, and answer; `problems.py` says how each trouble is answered.
"""
