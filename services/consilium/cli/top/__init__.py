"""`consilium top`: the cluster's figures live in a terminal."""
