"""Eight images of different sorts, each run to readiness in every kind and looked at from inside."""
