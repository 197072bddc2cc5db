"""Images, episodes and the pipeline that feeds them."""
