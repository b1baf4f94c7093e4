"""From a store's table of samples to arrays: columns, labels, groups, bags, views and inputs."""
