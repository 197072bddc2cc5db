"""Tables, pages and figures of runs, and the figures that the paper prints."""
