"""Arrays from a store's table of samples: columns, labels, groups, bags, views and inputs."""
