"""The open-loop load test: a workload that is data, several systems that serve it, and what is measured."""
