"""A demo job server that speaks Antenna's pull API with its real semantics, to try workers without Antenna.

Covers the worker's side of the API (jobs, tasks, results, registration), the leases and the job states behind it, an
image host, and switches for the faults that a worker must survive. Not a copy of Antenna: it has no projects to edit
and no web pages. The behaviours and where they were measured are listed in docs/job-server.md.
"""
