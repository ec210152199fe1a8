"""What Diptych is measured beside: the same work without services, other servers, and the seed's design."""
