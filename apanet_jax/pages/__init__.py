"""The pages of a run's report: what a workdir holds, as HTML that needs nothing else."""
