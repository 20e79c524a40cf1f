"""What `up` leaves behind on one machine: the process that looks after the parts of a cluster."""
