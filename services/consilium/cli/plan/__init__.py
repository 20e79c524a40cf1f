"""`consilium plan`: one file per page of its answer."""
