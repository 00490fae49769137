"""The node agent: runs the pods of the pod API as process groups of this machine in memory cgroups of their own."""
