"""Pictures, episodes and the pipeline that feeds them."""
