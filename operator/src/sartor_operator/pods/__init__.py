"""What is put into the cluster: Jobs of roles, servers, the content-addressed stack. Pure: from facts to manifests."""
